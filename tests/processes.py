"""Processes that a test started, and theirs, as the kernel lists them."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def descendants(pid: int | None = None) -> set[int]:
    """All that a process (None: this one) started, and what those started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    root = os.getpid() if pid is None else pid
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {root}} - found:
        found |= more
    return found


def model_processes() -> list[int]:
    """The actors of Ray Data that this process' Ray runs at the moment."""
    return sorted(pid for pid in descendants() if "MapWorker" in _command(pid))


def kill(pid: int) -> None:
    """End a process without a word."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""
