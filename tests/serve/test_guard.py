"""Who is answered."""

import asyncio
from typing import Any

import pytest

from ray_app.bundle import Bundle
from ray_app.serve.guard import Guard
from ray_app.serve.keys import Ring
from tests.bundles import digits
from tests.serve.local import TOKEN, local

GOOD = digits(1)[0][0, ..., 0].tolist()


@pytest.mark.parametrize(
    ("header", "status", "said"),
    [
        (None, 401, "no token; send the header `Authorization: Bearer <token>`"),
        ("", 401, "no token"),
        ("Bearer", 401, "no token"),
        ("Bearer ", 401, "no token"),
        (f"Basic {TOKEN}", 401, "no token"),
        (f"Bearer {TOKEN}x", 403, "wrong token"),
        (f"Bearer {TOKEN[:-1]}", 403, "wrong token"),
        (f"Bearer {TOKEN.upper()}", 403, "wrong token"),
        ("Bearer \xe4\xf6\xfc", 403, "wrong token"),
        (f"Bearer {TOKEN}", 200, None),
        (f"bearer {TOKEN}", 200, None),
    ],
)
def test_a_token_opens(one: Bundle, header: str | None, status: int, said: str | None) -> None:
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    with local(one, token=TOKEN, client=("10.0.0.9", 1), host="models.example.org") as app:
        answer = app.predict([GOOD], headers=headers)
        assert answer.status_code == status
        if said is not None:
            assert said in answer.json()["error"]
            assert TOKEN not in answer.text
        assert ("www-authenticate" in answer.headers) is (status == 401)
        for path in ("/docs", "/openapi.json", "/", "/nowhere"):
            assert (app.get(path, headers=headers).status_code in (401, 403)) is (status != 200)
        for path in ("/healthz", "/readyz"):
            assert app.get(path).status_code == 200


@pytest.mark.parametrize(
    ("client", "host", "answered"),
    [
        ("127.0.0.1", "127.0.0.1:8000", True),
        ("127.0.0.1", "localhost:8000", True),
        ("::1", "[::1]:8000", True),
        ("::ffff:127.0.0.1", "localhost", True),
        ("10.0.0.9", "127.0.0.1:8000", False),
        ("127.0.0.1", "evil.example.org", False),
        ("127.0.0.1", "127.0.0.1.evil.example.org", False),
    ],
)
def test_without_a_token_only_this_machine_is_answered(
    one: Bundle, client: str, host: str, *, answered: bool
) -> None:
    with local(one, client=(client, 1)) as app:
        answer = app.predict([GOOD], headers={"host": host})
        assert answer.status_code == (200 if answered else 403)
        if not answered:
            assert "start the server with a token" in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "1e9", "99999", "x"])
def test_a_length_that_is_too_large_or_none_is_refused(one: Bundle, length: str) -> None:
    with local(one, limits={"body_bytes": 1000}) as app:
        headers = {"content-length": length, "content-type": "application/json"}
        assert app.post("/v1/predict", content=b"{}", headers=headers).status_code == 413


def test_a_web_socket_is_closed() -> None:
    sent: list[Any] = []

    async def never(*_: Any) -> None:
        raise AssertionError("the application was reached")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Guard(never, ring=Ring(), body_bytes=1)({"type": "websocket"}, never, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
