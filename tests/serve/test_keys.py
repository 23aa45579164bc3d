"""Keys: several at once, hashed, with an end and a quota, revoked while a server runs."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.bundle import Bundle
from ray_app.errors import SpecError
from ray_app.serve import keys
from ray_app.serve.keys import Ring, _Bucket
from tests.bundles import digits
from tests.serve.local import TOKEN, local

GOOD = digits(1)[0][0, ..., 0].tolist()
OUTSIDE = {"client": ("10.0.0.9", 1), "host": "models.example.org"}


class Clock:
    """Both clocks of a ring, set by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def status(ring: Ring, token: str) -> int:
    refused = ring.refused(token)
    return 200 if refused is None else refused.status


def test_the_file_holds_no_key_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    made = [keys.add(path, name) for name in ("ann", "bob")]
    text = path.read_text()
    assert not [token for token in made if token in text or token.removeprefix(keys.PREFIX) in text]
    assert len({*made}) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [key.name for key in keys.read(path)] == ["ann", "bob"]
    assert not list(path.parent.glob(".*"))


def test_each_key_opens_and_what_is_near_does_not(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = [keys.add(path, name) for name in ("ann", "bob")]
    ring = Ring(keys.digest(TOKEN), path)
    assert [status(ring, token) for token in (*made, TOKEN)] == [200, 200, 200]
    for wrong in (made[0][:-1], f"{made[0]}x", made[0].upper(), keys.read(path)[0].sha256, "", "\xe4"):
        assert status(ring, wrong) == 403
    assert Ring().is_empty
    assert not ring.is_empty


def test_a_key_ends(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "keys.json"
    token = keys.add(path, "ann", lasts=timedelta(hours=1))
    ring = Ring(path=path, clock=clock, now=clock.now)
    assert status(ring, token) == 200
    clock.seconds = 3601
    refused = ring.refused(token)
    assert refused is not None
    assert (refused.status, refused.reason) == (
        403,
        "the key ann is expired; ask whoever runs this server for another",
    )
    # Its name is free again.
    keys.add(path, "bob", lasts=timedelta(seconds=-1))
    again = keys.add(path, "bob")
    assert status(Ring(path=path), again) == 200


def test_a_key_is_revoked_while_a_server_runs(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "keys.json"
    ann, bob = (keys.add(path, name) for name in ("ann", "bob"))
    ring = Ring(path=path, clock=clock)
    keys.revoke(path, "ann")
    clock.seconds = 1.5
    assert (status(ring, ann), status(ring, bob)) == (403, 200)
    # A new one is known as soon; a file that is broken leaves the keys as they were.
    eve = keys.add(path, "eve")
    clock.seconds = 3.0
    assert status(ring, eve) == 200
    path.write_text("{")
    clock.seconds = 4.5
    assert (status(ring, ann), status(ring, eve)) == (403, 200)


def test_a_quota_is_a_minutes(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "keys.json"
    few, many = keys.add(path, "few", per_minute=3), keys.add(path, "many")
    ring = Ring(path=path, clock=clock)
    assert [status(ring, few) for _ in range(5)] == [200, 200, 200, 429, 429]
    refused = ring.refused(few)
    assert refused is not None
    assert refused.retry_after_s == 20
    assert status(ring, many) == 200
    clock.seconds = 19.0
    assert status(ring, few) == 429
    clock.seconds = 20.5
    assert [status(ring, few) for _ in range(2)] == [200, 429]
    clock.seconds = 1000.0
    assert [status(ring, few) for _ in range(4)] == [200, 200, 200, 429]


@given(st.integers(1, 50), st.lists(st.floats(0, 90), max_size=60))
def test_no_window_of_a_minute_has_more_than_two_quotas_and_the_wait_is_enough(
    quota: int, gaps: list[float]
) -> None:
    bucket, now, taken = _Bucket(quota, 0.0), 0.0, []
    for gap in gaps:
        now += gap
        wait = bucket.take(quota, now)
        if wait:
            now += wait
            assert bucket.take(quota, now) == 0
        taken.append(now)
    # A full bucket, and what fills it meanwhile.
    assert all(sum(at <= other < at + 60 for other in taken) <= 2 * quota + 1 for at in taken)


def test_over_http_a_key_opens_and_a_spent_quota_says_when(one: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    token = keys.add(path, "ann", per_minute=1)
    with local(one, ring=Ring(path=path), **OUTSIDE) as app:
        headers = {"authorization": f"Bearer {token}"}
        assert app.predict([GOOD]).status_code == 401
        assert app.predict([GOOD], headers=headers).status_code == 200
        spent = app.predict([GOOD], headers=headers)
        assert spent.status_code == 429
        assert 1 <= int(spent.headers["retry-after"]) <= 60
        assert "the key ann has 1 requests a minute" in spent.json()["error"]
        assert token not in spent.text
        assert app.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 2, "keys": []}', '{"version": 1, "keys": [{"name": "x"}]}']
)
def test_what_is_no_file_of_keys_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    for work in (lambda: keys.read(path), lambda: keys.add(path, "ann"), lambda: Ring(path=path)):
        with pytest.raises(SpecError, match=r"keys\.json: not a file of keys") as error:
            work()
        assert "\n" not in str(error.value)
    # What could not be read was not written over.
    assert path.read_text() == content
    with pytest.raises(SpecError, match="no such file of keys; make one with"):
        keys.read(tmp_path / "none.json")


def test_names_are_taken_once_and_revoked_by_name(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys.add(path, "ann")
    with pytest.raises(SpecError, match="'ann' has a valid key; revoke it first"):
        keys.add(path, "ann")
    with pytest.raises(SpecError, match="no valid key is called 'anne'; did you mean 'ann'"):
        keys.revoke(path, "anne")
    keys.revoke(path, "ann")
    with pytest.raises(SpecError, match="no valid key is called 'ann'"):
        keys.revoke(path, "ann")
    keys.add(path, "ann")
    assert [key.revoked is None for key in keys.read(path)] == [False, True]
    assert json.loads(path.read_text())["version"] == 1
