"""From the bytes of a text file to its records, each with the byte at which it begins; never a whole file."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import pyarrow as pa

from ray_app.data.sources._files import File
from ray_app.errors import DataError

BLOCK = 2**20
COMPRESSED = (".gz", ".zst", ".bz2")
"""Suffixes of files that are unpacked while they are read; offsets are those of what they unpack to."""

Record: TypeAlias = tuple[int, bytes | None]
"""Where it begins, and its content without the line's end; None: it is longer than allowed."""
Joiner: TypeAlias = Callable[[Iterator[Record]], Iterator[Record]]
"""Makes records of lines, where a record may be several."""


def is_packed(name: str) -> bool:
    """Tell whether reading a file from its middle means unpacking all before it."""
    return name.lower().endswith(COMPRESSED)


def blocks(file: File, start: int = 0) -> Iterator[bytes]:
    """Return the content from a byte on, unpacked, a little at a time.

    Raises:
        DataError: It cannot be read, or ends in the middle of what is packed.
    """
    at = start
    try:
        if is_packed(file.name):
            with file.place.stream() as stream:
                while start > 0 and (passed := len(stream.read(min(start, BLOCK)))):
                    start -= passed
                while block := stream.read(BLOCK):
                    at += len(block)
                    yield block
            return
        with file.place.open() as content:
            content.seek(start)
            while block := content.read(BLOCK):
                at += len(block)
                yield block
    except (OSError, pa.ArrowException) as error:
        said = str(error).partition("\n")[0]
        raise DataError(f"{file.place}: damaged after {at:,} bytes of content ({said})") from error


def lines(content: Iterable[bytes], start: int, max_bytes: int) -> Iterator[Record]:
    """Return lines, empty ones too; `start` is where the content begins."""
    begin, size = start, 0
    pending: list[bytes] = []
    for block in content:
        *whole, last = block.split(b"\n")
        for part in whole:
            size += len(part)
            yield begin, _joined([*pending, part]) if size <= max_bytes else None
            begin, size = begin + size + 1, 0
            pending.clear()
        size += len(last)
        if size <= max_bytes:
            pending.append(last)
        else:
            # It may go on for gigabytes.
            pending.clear()
    if size:
        yield begin, _joined(pending) if size <= max_bytes else None


def paragraphs(max_bytes: int) -> Joiner:
    """Return what joins the lines between blank ones."""

    def join(found: Iterator[Record]) -> Iterator[Record]:
        held = _Held(max_bytes)
        for begin, content in found:
            if content is None or content.strip():
                held.add(begin, content)
            elif held.begin is not None:
                yield held.take()
        if held.begin is not None:
            yield held.take()

    return join


def quoted(quote: bytes, max_bytes: int) -> Joiner:
    """Return what joins lines while a quotation is open: an even number of quotes closes them all."""

    def join(found: Iterator[Record]) -> Iterator[Record]:
        held = _Held(max_bytes)
        is_open = False
        for begin, content in found:
            held.add(begin, content)
            is_open ^= content is not None and content.count(quote) % 2 == 1
            if not is_open:
                yield held.take()
        if held.begin is not None:
            yield held.take()

    return join


class _Held:
    """Lines that may become one record; of one that is too long only its beginning is kept."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.begin: int | None = None
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, begin: int, content: bytes | None) -> None:
        self.begin = begin if self.begin is None else self.begin
        self.size += self.max_bytes + 1 if content is None else len(content) + bool(self.parts)
        if content is not None and self.size <= self.max_bytes:
            self.parts.append(content)
        else:
            self.parts.clear()

    def take(self) -> Record:
        record = (self.begin or 0, b"\n".join(self.parts) if self.size <= self.max_bytes else None)
        self.begin, self.size = None, 0
        self.parts = []
        return record


def _joined(parts: list[bytes]) -> bytes:
    return (parts[0] if len(parts) == 1 else b"".join(parts)).removesuffix(b"\r")
