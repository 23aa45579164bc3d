"""API keys: several at once, each with a name, an end and a quota; only their hashes are kept.

    {"version": 1, "keys": [{"name": ..., "sha256": ..., "created": ..., "expires": ..., "per_minute": ...}]}

A key is 32 random bytes, so a plain hash is as good as a slow one: there is nothing to guess.
"""

import hashlib
import hmac
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ray_app.errors import SpecError
from ray_app.registry import nearest

PREFIX = "ray-app-"
"""What a key begins with, so that scanners for lost secrets can tell one."""
_VERSION = 1
# A revoked key may be answered for so long.
_RELOAD_S = 1.0


@dataclass(frozen=True)
class Key:
    """A key, as it is kept."""

    name: str
    sha256: str
    """Of the key, in hex."""
    created: str
    """When, in UTC, as ISO 8601."""
    expires: str | None = None
    """From when on it is refused; None: never."""
    per_minute: int | None = None
    """Requests a minute, counted in each replica of the ingress; None: any number."""
    revoked: str | None = None
    """Since when it is refused."""

    def state(self, now: datetime) -> str:
        """Return `valid`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= _time(self.expires) else "valid"


@dataclass(frozen=True)
class Refused:
    """Why a key is not answered."""

    status: int
    """As in HTTP."""
    reason: str
    retry_after_s: int | None = None


class Ring:
    """The keys that open a server.

    Args:
        token_digest: sha256 of a token that always opens, in hex; None: there is none.
        path: A file of keys, read again when it changes; None: there is none.
        clock: Tells seconds that only grow.
        now: Tells the time of day, in UTC.

    Raises:
        SpecError: The file cannot be read.
    """

    def __init__(
        self,
        token_digest: str | None = None,
        path: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._token, self._path, self._clock, self._now = token_digest, path, clock, now
        self._keys: list[Key] = read(path) if path is not None else []
        self._looked, self._changed = clock(), _changed(path)
        self._buckets: dict[str, _Bucket] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nobody can have a key, since there is no token and no file."""
        return self._token is None and self._path is None

    def refused(self, token: str) -> Refused | None:
        """Return why a token is not answered; None: it is, and counts against its quota."""
        self._look()
        given, found = digest(token), None
        # All of them, whichever it is: the time tells nothing about which one is near.
        opens = hmac.compare_digest(given, self._token or "")
        for key in self._keys:
            if hmac.compare_digest(given, key.sha256):
                found = key
        if opens:
            return None
        if found is None:
            return Refused(403, "wrong token; ask whoever runs this server for the right one")
        if (state := found.state(self._now())) != "valid":
            return Refused(403, f"the key {found.name} is {state}; ask whoever runs this server for another")
        if found.per_minute is None:
            return None
        bucket = self._buckets.setdefault(found.sha256, _Bucket(found.per_minute, self._clock()))
        wait = bucket.take(found.per_minute, self._clock())
        if wait <= 0:
            return None
        told = f"the key {found.name} has {found.per_minute} requests a minute; try again in {wait} s"
        return Refused(429, told, wait)

    def _look(self) -> None:
        """Read the file again, if it has changed; one that cannot be read leaves the keys as they were."""
        if self._path is None or self._clock() - self._looked < _RELOAD_S:
            return
        self._looked, changed = self._clock(), _changed(self._path)
        if changed != self._changed:
            try:
                self._keys = read(self._path)
            except SpecError:
                return
            self._changed = changed


class _Bucket:
    """Fills with requests, a minute's at most, and gives one away at a time."""

    def __init__(self, size: int, now: float) -> None:
        self._left, self._at = float(size), now

    def take(self, per_minute: int, now: float) -> int:
        """Take one and return 0, or the seconds until there is one."""
        rate = per_minute / 60
        self._left = min(float(per_minute), self._left + (now - self._at) * rate)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0
        return max(1, math.ceil((1 - self._left) / rate))


def digest(token: str) -> str:
    """Return sha256 of a token, in hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def read(path: Path) -> list[Key]:
    """Return the keys of a file.

    Raises:
        SpecError: It cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']}")
        keys = [Key(**one) for one in content["keys"]]
        for key in keys:
            key.state(datetime.now(UTC))
    except FileNotFoundError as error:
        raise SpecError(f"{path}: no such file of keys; make one with `ray-app keys add`") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SpecError(
            f"{path}: not a file of keys ({error}); give the one that `ray-app keys` made"
        ) from error
    return keys


def add(path: Path, name: str, *, lasts: timedelta | None = None, per_minute: int | None = None) -> str:
    """Make a key, keep its hash, and return it: it is told this once.

    Args:
        path: The file; made where there is none, for its owner's eyes only.
        name: Whose it is; one that no valid key has.
        lasts: For how long it is good; None: until it is revoked.
        per_minute: See Key.

    Raises:
        SpecError: The name is taken, or the file is none of keys.
    """
    keys, now = read(path) if path.exists() else [], datetime.now(UTC)
    if any(key.name == name and key.state(now) == "valid" for key in keys):
        raise SpecError(f"keys: {name!r} has a valid key; revoke it first, or give another name")
    token = PREFIX + secrets.token_urlsafe(32)
    expires = _iso(now + lasts) if lasts is not None else None
    _write(path, [*keys, Key(name, digest(token), _iso(now), expires, per_minute)])
    return token


def revoke(path: Path, name: str) -> None:
    """Refuse a key from now on; servers that read the file notice within a second or two.

    Raises:
        SpecError: No valid key has that name.
    """
    keys, now = read(path), datetime.now(UTC)
    valid = [key.name for key in keys if key.state(now) == "valid"]
    if name not in valid:
        raise SpecError(f"keys: no valid key is called {name!r}{nearest(name, valid)}")
    _write(
        path,
        [
            replace(key, revoked=_iso(now)) if key.name == name and key.revoked is None else key
            for key in keys
        ],
    )


def _write(path: Path, keys: Sequence[Key]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    content = json.dumps({"version": _VERSION, "keys": [asdict(key) for key in keys]}, indent=1)
    # Its owner's alone from the first byte on.
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
    temporary.replace(path)


def _changed(path: Path | None) -> tuple[int, int] | None:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ino) if found is not None else None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="seconds")
