"""Samples of tar files: members that follow each other and share a key; nothing is unpacked to a disk."""

import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from ray_app.data.sources._files import File
from ray_app.errors import DataError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2")
_BLOCK = 2**20


@dataclass
class Sample:
    """What shares a key: `a/1.jpg` and `a/1.cls` are the members `jpg` and `cls` of `a/1`."""

    key: str
    begin: int
    """Byte of its first header, in what the file unpacks to."""
    end: int = 0
    """One past its last member."""
    members: dict[str, bytes | None] = field(default_factory=dict)
    """Extension → content; None: it was not asked for, or is too large."""
    sizes: dict[str, int] = field(default_factory=dict)
    twice: str = ""
    """An extension that is there more than once."""


def is_packed(name: str) -> bool:
    """Tell whether reading a file from its middle means unpacking all before it."""
    return not name.lower().endswith(".tar")


def samples(file: File, start: int = 0, *, wanted: frozenset[str], max_bytes: int) -> Iterator[Sample]:
    """Return the samples from a byte on, which must be one's beginning.

    Args:
        file: Plain or packed.
        start: Where to begin.
        wanted: Last parts of the extensions whose content is read.
        max_bytes: Larger members are not read.

    Raises:
        DataError: The file cannot be read, or is damaged or cut short.
    """
    try:
        with ExitStack() as stack:
            reader = _Reader(stack.enter_context(_opened(file)), seeks=not is_packed(file.name))
            reader.seek(start)
            # Read in the order in which it lies there, so that this works for a packed one, too.
            tar = stack.enter_context(tarfile.TarFile(fileobj=reader, mode="r"))  # type: ignore[arg-type]
            sample: Sample | None = None
            while (member := tar.next()) is not None:
                # It remembers every member otherwise: a kilobyte each.
                tar.members.clear()  # type: ignore[attr-defined]
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if not member.isreg() or not stem:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = Sample(key, member.offset)
                extension = extension.lower()
                sample.twice = extension if extension in sample.members else sample.twice
                sample.sizes[extension] = member.size
                read = extension.rpartition(".")[2] in wanted and member.size <= max_bytes
                sample.members[extension] = _content(tar, member) if read else None
                sample.end = tar.offset
            # The library takes a header that it cannot read for the end.
            if reader.last.strip(b"\0"):
                raise DataError(
                    f"{file.place}: damaged after {tar.offset:,} bytes of content; is it truncated?"
                )
            if sample is not None:
                yield sample
    except (tarfile.TarError, OSError, EOFError, pa.ArrowException) as error:
        raise DataError(f"{file.place}: not a readable tar ({str(error).partition(chr(10))[0]})") from error


def leads_outside(key: str) -> bool:
    """Tell whether a key is no plain relative path; who unpacks such a member may overwrite what is his."""
    return key.startswith("/") or ".." in PurePosixPath(key).parts


class _Reader:
    """A file for tarfile, which only ever goes forward when it reads members in their order."""

    def __init__(self, file: Any, *, seeks: bool) -> None:
        self._file = file
        self._seeks = seeks
        self._at = 0
        self.last = b""
        """What was read last."""

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> int:
        if self._seeks:
            self._file.seek(position)
        else:
            left = position - self._at
            if left < 0:
                raise OSError("a packed tar cannot be read backwards")
            while left and (block := self._file.read(min(left, _BLOCK))):
                left -= len(block)
        self._at = position
        return position

    def read(self, size: int) -> bytes:
        self.last = bytes(self._file.read(size))
        self._at += len(self.last)
        return self.last


def _opened(file: File) -> Any:
    if file.name.lower().endswith(".tgz"):
        return pa.CompressedInputStream(file.place.open(), "gzip")
    return file.place.stream() if is_packed(file.name) else file.place.open()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    file = tar.extractfile(member)
    return file.read() if file is not None else None
