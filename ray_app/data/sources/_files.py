"""From what a spec says of files to the files, with names that are the same on every machine."""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ray_app.errors import DataError
from ray_app.storage import Place

# Up to this size a file's fingerprint is a hash of its content; above, of its size, time and ends, so that
# planning a corpus does not read it.
HASHED_BYTES = 64 * 2**20
# Nor does it where there are many files, or where they lie in a store: then size and time must do.
HASHED_BYTES_IN_ALL = 2**30
_ENDS = 2**20
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class File:
    """A file, and how rows call it."""

    place: Place
    name: str
    """Relative to the folder that the spec names, with forward slashes."""
    size: int
    """In bytes; -1: a link that leads nowhere."""
    mtime_ns: int
    hashed: bool = True
    """Whether its content may be read for its fingerprint."""

    @property
    def stamp(self) -> tuple[str, int, int]:
        """What tells whether it changed, without reading it."""
        return self.name, self.size, self.mtime_ns

    def check(self) -> None:
        """Make sure that it is still what the run was planned with.

        Raises:
            DataError: It is not.
        """
        if _stat(self.place, self.name).stamp != self.stamp:
            raise DataError(f"{self.place}: changed since the run was planned; run it again")


def find(pattern: str, suffixes: Collection[str], *, any_name: bool = False) -> list[File]:
    """Return the files of a path, a folder (searched in depth) or a glob, sorted by name.

    Links to files count as files, links to folders are not followed: one may lead back to where it lies.

    Args:
        pattern: See Place.of; it may be a URL.
        suffixes: In a folder, those that count, in lower case.
        any_name: Also return files that cannot be opened for their name; see check_name.

    Raises:
        DataError: There are none; the message says what was looked for.
    """
    place = Place.of(pattern)
    wild = _wild_part(place.uri)
    if wild is None:
        if place.is_file():
            return [_stat(place, place.name)]
        if not place.is_dir():
            start = f"; a relative path starts at {Path.cwd()}" if place.is_local else ""
            raise DataError(f"{pattern}: no such file or folder{start}")
        root, fits, depth = place, None, None
    else:
        root, rest = Place(place.uri[: wild - 1] or "/"), place.uri[wild:]
        fits, depth = _matcher(rest), None if "**" in rest else rest.count("/")
    found = sorted(
        (
            file
            for file in _below(root, depth)
            if _counts(file.name, suffixes) and (not fits or fits(file.name))
        ),
        key=lambda file: file.name,
    )
    if not found:
        raise DataError(f"{pattern}: no files ending in {', '.join(sorted(suffixes))} there; check the path")
    for file in found if not any_name else ():
        check_name(file)
    many = sum(max(0, file.size) for file in found) > HASHED_BYTES_IN_ALL
    return [File(f.place, f.name, f.size, f.mtime_ns, hashed=False) for f in found] if many else found


def fingerprint(file: File) -> str:
    """Return hex digits that change when the file does.

    Raises:
        DataError: It cannot be read.
    """
    file = _stat(file.place, file.name, hashed=file.hashed)
    if not file.place.is_local:
        return hashlib.sha256(f"{file.size} {file.mtime_ns}".encode()).hexdigest()[:32]
    try:
        return _fingerprint(file)
    except OSError as error:
        raise _unreadable(str(file.place), error) from error


def check_name(file: File) -> None:
    """Refuse a file that Arrow cannot open for its name.

    Raises:
        DataError: Its name is not UTF-8.
    """
    try:
        str(file.place).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{file.name}: its name is no UTF-8; rename it") from error


@lru_cache(maxsize=4096)
def _fingerprint(file: File) -> str:
    with file.place.path.open("rb") as content:
        if file.hashed and file.size <= HASHED_BYTES:
            return hashlib.file_digest(content, "sha256").hexdigest()[:32]
        state = hashlib.sha256(f"{file.size} {file.mtime_ns}".encode())
        state.update(content.read(_ENDS))
        content.seek(max(0, file.size - _ENDS))
        state.update(content.read())
    return state.hexdigest()[:32]


def _stat(place: Place, name: str, *, hashed: bool = True) -> File:
    if not place.is_local:
        stat = place.stat()
        return File(place, name, stat.size, stat.mtime_ns, hashed)
    try:
        status = place.path.stat()
    except OSError as error:
        raise _unreadable(str(place), error) from error
    return File(place, name, status.st_size, status.st_mtime_ns, hashed)


def _below(root: Place, depth: int | None) -> Iterator[File]:
    """Every file below a folder; in subfolders not deeper than `depth`, where that is said."""
    if not root.is_local:
        yield from (File(stat.place, stat.name, stat.size, stat.mtime_ns) for stat in root.walk())
        return
    waiting = [("", str(root))]
    while waiting:
        within, folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    # A name on a disk may be any bytes; what rows are called is text.
                    name = within + os.fsencode(entry.name).decode("utf-8", "backslashreplace")
                    if entry.is_dir(follow_symlinks=False):
                        if depth is None or name.count("/") < depth:
                            waiting.append((f"{name}/", entry.path))
                    elif file := _entry(entry, name):
                        yield file
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unreadable(folder, error) from error


def _entry(entry: "os.DirEntry[str]", name: str) -> File | None:
    place = Place(entry.path)
    try:
        if not entry.is_file():
            # Neither pipes nor links to folders; but a link that leads nowhere was meant to be a file.
            return File(place, name, -1, 0) if entry.is_symlink() and not entry.is_dir() else None
        status = entry.stat()
    except OSError:
        return File(place, name, -1, 0)
    return File(place, name, status.st_size, status.st_mtime_ns)


def _wild_part(uri: str) -> int | None:
    """Where the first part with a wildcard begins; a file whose own name looks like one is a file."""
    found = _WILD.search(uri)
    if found is None or ("://" not in uri and Path(uri).exists()):
        return None
    return uri.rindex("/", 0, found.start()) + 1


def _matcher(pattern: str) -> Callable[[str], object]:
    """Return a test of names; `**` is any number of folders, the other wildcards stay within one part."""
    plain = re.sub(
        r"\*\*/|\*+|\?|\[!?\]?[^\]]*\]|.", lambda found: _as_regex(found.group()), pattern, flags=re.S
    )
    return re.compile(plain, re.S).fullmatch


def _as_regex(piece: str) -> str:
    if piece == "**/":
        return "(?:[^/]+/)*"
    if piece == "**":
        return ".*"
    if len(piece) > 1 and piece[0] == "[":
        return f"[^{piece[2:]}" if piece[1] == "!" else piece
    return {"*": "[^/]*", "?": "[^/]"}.get(piece, re.escape(piece))


def _counts(name: str, suffixes: Collection[str]) -> bool:
    # Names with a dot or underscore in front are what tools leave beside data
    # (.DS_Store, _SUCCESS, half-written files).
    hidden = any(part.startswith((".", "_")) for part in name.split("/"))
    return not hidden and name.lower().endswith(tuple(suffixes))


def _unreadable(path: str, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror}); check that it exists and its permissions")
