"""Who is building in a folder: two runs on one output refuse each other, a dead one is no hindrance.

The file `lease.json` names a host, a process and a time, which is renewed while the run lasts. On the same
host a lease of a process that is gone is void at once; of another host, when it was not renewed for a while.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray_app.errors import DataError
from ray_app.storage import Place

FILE = "lease.json"
RENEWED_S = 10.0
VOID_AFTER_S = 60.0


@contextmanager
def leased(folder: Place) -> Iterator[None]:
    """Hold a folder for the length of a block.

    Raises:
        DataError: Another run holds it; the message names its host and process.
    """
    place = folder / FILE
    mine = {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid()), "token": uuid.uuid4().hex}
    _take(place, mine)
    stop = threading.Event()
    renewing = threading.Thread(target=_renew, args=(place, mine, stop), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        stop.set()
        renewing.join()
        with suppress(DataError):
            place.remove()


def _take(place: Place, mine: dict[str, Any]) -> None:
    there = _read(place)
    if there is not None and _alive(there):
        raise DataError(
            f"{place.parent}: process {there.get('pid')} on {there.get('host')} is building there;"
            " wait for it, stop it, or give another --out"
        )
    place.remove()
    written = json.loads(place.write_first(_now(mine)))
    if written.get("token") != mine["token"]:
        raise DataError(
            f"{place.parent}: process {written.get('pid')} on {written.get('host')} began to build there at"
            " the same moment; wait for it, stop it, or give another --out"
        )


def _renew(place: Place, mine: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(RENEWED_S):
        # A store that does not answer for a moment is not worth the run.
        with suppress(DataError):
            place.write_bytes(_now(mine))


def _read(place: Place) -> dict[str, Any] | None:
    if not place.exists():
        return None
    try:
        return dict(json.loads(place.read_bytes()))
    except (DataError, ValueError, TypeError):
        return None


def _alive(lease: dict[str, Any]) -> bool:
    if lease.get("host") == _host() and lease.get("started") is not None:
        # A number is given to a new process when the old one is gone; the time of its start tells them apart.
        return _started(int(lease.get("pid", 0))) == lease["started"]
    return time.time() - float(lease.get("renewed", 0)) < VOID_AFTER_S


def _now(mine: dict[str, Any]) -> bytes:
    return json.dumps({**mine, "renewed": time.time()}).encode()


def _host() -> str:
    return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process was started, in the kernel's clock ticks; None: it is gone, or this is no Linux."""
    try:
        # The name before it, in parentheses, may hold anything.
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
        return None if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        return None


__all__ = ["FILE", "leased"]
