"""The demo's requests against an application in this process: what is sent, and how answers are told."""

import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from ray_app.demo.requests import Exchange, exchanges

DIGIT = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
PHOTO = np.full((16, 16, 1), 200, dtype=np.uint8)
ONE = {"label": "3", "probabilities": {"3": 0.75, "5": 0.25}}


def detectors(*, abnormal: bool) -> dict[str, Any]:
    return {"knn": {"score": 1.0, "abnormal": abnormal}, "energy": {"score": 0.0, "abnormal": False}}


def server(request: httpx.Request) -> httpx.Response:
    """What the served application answers, in short."""
    normal, odd = ({**ONE, "detectors": detectors(abnormal=flag)} for flag in (False, True))
    path = request.url.path
    if path in ("/healthz", "/readyz"):
        return httpx.Response(200, json={"status": path.strip("/"), "milliseconds": 1.25})
    if path not in ("/v1/predict", "/v1/detect", "/v1/embed"):
        return httpx.Response(404, json={"error": f"no such path: {path}"})
    if not request.headers["content-type"].startswith("multipart/"):
        try:
            body = json.loads(request.content)
        except json.JSONDecodeError:
            return httpx.Response(400, json={"error": "the body is not valid JSON"})
        if body["instances"] == [[1, 2, 3]]:
            return httpx.Response(422, json={"error": "instance 0: not an image"})
        return httpx.Response(200, json={"predictions": [normal, odd]})
    if path == "/v1/detect":
        return httpx.Response(200, json={"detections": [{"detectors": detectors(abnormal=True)}]})
    if path == "/v1/embed":
        return httpx.Response(200, json={"embeddings": [[0.0] * 4], "dim": 4})
    return httpx.Response(200, json={"predictions": [normal]})


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], tuple[list[Exchange], list[httpx.Request]]]:
    """Send all requests to a function; returns the exchanges and what was sent."""

    def run(answer: Any) -> tuple[list[Exchange], list[httpx.Request]]:
        sent: list[httpx.Request] = []

        def handle(request: httpx.Request) -> httpx.Response:
            request.read()
            sent.append(request)
            made = answer(request)
            # As a stream: httpx measures the time only of what it reads itself.
            return httpx.Response(made.status_code, stream=httpx.ByteStream(made.content))

        client = httpx.Client
        monkeypatch.setattr(
            httpx, "Client", lambda **options: client(transport=httpx.MockTransport(handle), **options)
        )
        return list(exchanges("http://served", DIGIT, "three", PHOTO)), sent

    return run


def test_each_kind_is_sent_and_its_answer_told(ask: Any) -> None:
    answers, _ = ask(server)
    assert [(one.status, one.answer) for one in answers] == [
        (200, "3 (0.75), normal"),
        (200, "3 (0.75), normal; 3 (0.75), abnormal to knn"),
        (200, "abnormal to knn"),
        (200, "1 x 4 numbers"),
        (200, "healthz, a forward pass took 1.2 ms"),
        (200, "readyz"),
        (400, "the body is not valid JSON"),
        (422, "instance 0: not an image"),
        (404, "no such path: /nothing"),
        (200, "3 (0.75), normal"),
    ]
    assert "a PNG of a three" in answers[0].request
    assert all(one.milliseconds >= 0 for one in answers)


def test_images_travel_whole(ask: Any) -> None:
    _, sent = ask(server)
    body = sent[0].content
    with Image.open(io.BytesIO(body[body.index(b"\x89PNG") :])) as image:
        np.testing.assert_array_equal(np.asarray(image), DIGIT[..., 0])
    assert json.loads(sent[1].content)["instances"][0] == DIGIT[..., 0].tolist()


def test_an_error_where_none_was_expected_is_told_too(ask: Any) -> None:
    answers, sent = ask(lambda request: httpx.Response(503, json={"error": "the queue is full"}))
    assert len(sent) == len(answers) == 10
    assert {(one.status, one.answer) for one in answers} == {(503, "the queue is full")}
