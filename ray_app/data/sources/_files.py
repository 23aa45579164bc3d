"""From what a spec says of files to the files, with names that are the same on every machine."""

import hashlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ray_app.errors import DataError

# Up to this size a file's fingerprint is a hash of its content; above, of its size, time and ends, so that
# planning a corpus does not read it.
HASHED_BYTES = 64 * 2**20
_ENDS = 2**20


@dataclass(frozen=True)
class File:
    """A file, and how rows call it."""

    path: Path
    name: str
    """Relative to the folder that the spec names, with forward slashes."""


def find(pattern: str, suffixes: Collection[str]) -> list[File]:
    """Return the files of a path, a folder (searched in depth) or a glob, sorted by name.

    Args:
        pattern: See expand.
        suffixes: In a folder, those that count, in lower case.

    Raises:
        DataError: There are none; the message says what was looked for.
    """
    path = Path(expand(pattern))
    if path.is_file():
        return [File(path, path.name)]
    if path.is_dir():
        root, found = path, path.rglob("*")
    else:
        parts = path.parts
        fixed = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
        if fixed is None:
            raise DataError(f"{pattern}: no such file or folder; a relative path starts at {Path.cwd()}")
        root = Path(*parts[:fixed]) if fixed else Path()
        found = root.glob(str(Path(*parts[fixed:])))
    files = sorted(
        (
            File(one, one.relative_to(root).as_posix())
            for one in found
            if one.is_file() and _counts(one, root, suffixes)
        ),
        key=lambda file: file.name,
    )
    if not files:
        raise DataError(f"{pattern}: no files ending in {', '.join(sorted(suffixes))} there; check the path")
    return files


def expand(pattern: str) -> str:
    """Replace `~` and environment variables, and make it absolute: a worker runs in another folder.

    Raises:
        DataError: A variable is not set, or the path is a URL.
    """
    if "://" in pattern:
        raise DataError(
            f"{pattern}: URLs are not read; mount the store, or copy the files to a path all machines see"
        )
    for name in re.findall(r"\$\{?(\w+)\}?", pattern):
        if name not in os.environ:
            raise DataError(
                f"{pattern}: the environment variable {name} is not set; set it to the folder it stands for"
            )
    # Not resolve(): a link that is pointed elsewhere between two runs is a change to be noticed.
    return str(Path(os.path.expandvars(pattern)).expanduser().absolute())


def fingerprint(path: Path) -> str:
    """Return hex digits that change when the file does.

    Raises:
        DataError: It cannot be read.
    """
    try:
        stat = path.stat()
        return _fingerprint(str(path), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check that it exists and its permissions"
        ) from error


@lru_cache(maxsize=4096)
def _fingerprint(path: str, size: int, time: int) -> str:
    with Path(path).open("rb") as file:
        if size <= HASHED_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
        state = hashlib.sha256(f"{size} {time}".encode())
        state.update(file.read(_ENDS))
        file.seek(-_ENDS, os.SEEK_END)
        state.update(file.read())
    return state.hexdigest()[:32]


def _counts(path: Path, root: Path, suffixes: Collection[str]) -> bool:
    # Names with a dot or underscore in front are what tools leave beside data
    # (.DS_Store, _SUCCESS, half-written files).
    hidden = any(part.startswith((".", "_")) for part in path.relative_to(root).parts)
    return path.suffix.lower() in suffixes and not hidden
