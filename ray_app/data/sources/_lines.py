"""Rows that are records of text files, plain or packed: divided without being parsed, read a range at a time.

A plain file is cut into ranges of bytes; a record belongs to the range in which it begins, so nothing has to
be read to divide it. What is packed is unpacked once to learn its length, and records of several lines are
looked for once, as no one can tell from the middle of a file whether a quotation is open.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar

from ray_app.data.arrow import objects
from ray_app.data.sources import UNIT_BYTES, Read, Rejected, Source, Unit, digest, runs, unit_id
from ray_app.data.sources._files import File, find, fingerprint
from ray_app.data.sources._records import BLOCK, COMPRESSED, Joiner, Record, blocks, is_packed, lines
from ray_app.errors import DataError
from ray_app.storage import Place

MAX_BYTES = 8 * 2**20
_UNPACKERS = 8


class Lines(Source):
    """What csv, jsonl and text share.

    A row is called `<file>@<byte>`: where it begins in its file (unpacked, where it is packed).
    """

    kind: ClassVar[str]
    """The source's name, for messages."""
    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, *, path: str, max_bytes: int = MAX_BYTES) -> None:
        if not isinstance(path, str) or not path:
            raise ValueError(f"{self.kind}: path must be a file, a folder or a glob, got {path!r}")
        if not isinstance(max_bytes, int) or not 0 < max_bytes <= UNIT_BYTES:
            raise ValueError(f"{self.kind}: max_bytes must be 1 to {UNIT_BYTES:,}, got {max_bytes!r}")
        self.path = Place.of(path).uri
        self.max_bytes = max_bytes

    @property
    def labels(self) -> Sequence[str]:
        """Nothing: a file of text does not say what its numbers mean."""
        return []

    @cached_property
    def files(self) -> list[File]:
        """The files, sorted by name."""
        return find(
            self.path, [f"{suffix}{packed}" for suffix in self.suffixes for packed in ("", *COMPRESSED)]
        )

    @property
    def options(self) -> Mapping[str, Any]:
        """What changes the rows beside the files."""
        return {"max_bytes": self.max_bytes}

    def fingerprint(self) -> str:
        """Return a hash of the options, and of the files' names and fingerprints."""
        return digest(self.options, [(file.name, fingerprint(file)) for file in self.files])

    def units(self, rows_per_unit: int) -> list[Unit]:
        """Divide the files into ranges of about as many rows, from the mean length of the first."""
        if self._joiner() is not None:
            found = [unit for file in self.files for unit in self._joined_units(file, rows_per_unit)]
        else:
            count = sum(bool(content is None or content.strip()) for _, content in self._sample)
            mean = self._sample_bytes / max(1, count)
            per_unit = max(1, min(UNIT_BYTES, round(mean * rows_per_unit)))
            found = [
                self._unit(file, start, stop, min(rows_per_unit, round((stop - start) / mean)))
                for file, size in zip(self.files, self._sizes, strict=True)
                for start in range(0, size, per_unit)
                for stop in [min(start + per_unit, size)]
            ]
        if not found:
            raise DataError(f"{self.path}: holds nothing; check the path")
        return found

    def read(self, unit: Unit) -> Read:
        """Return a unit's rows; what cannot be parsed is rejected."""
        return next(self.stream([unit]))[1]

    def stream(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Read]]:
        """Read units; those of one file that follow each other cost one reading of it."""
        for run in runs(units, self._goes_on):
            yield from self._run(self._file(run[0].path), run)

    def is_sequential(self, unit: Unit) -> bool:
        """Tell whether its file is packed."""
        return is_packed(str(unit.path))

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the first lines, of which the worker needs only what they said of the columns."""
        return {key: value for key, value in vars(self).items() if key not in ("_sample", "_by_name")}

    @abstractmethod
    def _row(self, content: bytes) -> Sequence[Any] | None:
        """Return a row's values in the order of `columns`; None: there is no row.

        Raises:
            ValueError: Why it is rejected.
        """

    @abstractmethod
    def _column(self, name: str, values: list[Any]) -> Any:
        """Return the values of a column as an array."""

    def _joiner(self) -> Joiner | None:
        """What makes records of lines; None: each line is one."""
        return None

    def _checked(self, file: File, found: Iterator[Record]) -> Iterator[Record]:
        """Return a file's records without those at its beginning that are no rows."""
        return found

    @cached_property
    def _sample(self) -> list[Record]:
        """The first records of the first file that has any."""
        for file in self.files:
            if found := list(self._records(file, 0, BLOCK)):
                return found
        return []

    @property
    def _sample_bytes(self) -> int:
        begin = self._sample[0][0] if self._sample else 0
        last, content = self._sample[-1] if self._sample else (0, b"")
        return max(1, last + (len(content) if content is not None else self.max_bytes) + 1 - begin)

    @cached_property
    def _sizes(self) -> list[int]:
        """Of what each file holds, unpacked."""
        with ThreadPoolExecutor(_UNPACKERS) as pool:
            return list(pool.map(_size, self.files))

    def _joined_units(self, file: File, rows_per_unit: int) -> Iterator[Unit]:
        start, rows, last = 0, 0, 0
        for begin, content in self._records(file, 0, None):
            if rows and (rows == rows_per_unit or begin - start > UNIT_BYTES):
                yield self._unit(file, start, begin, rows)
                start, rows = begin, 0
            rows += 1
            last = begin + len(content or b"") + 1
        if rows:
            yield self._unit(file, start, last, rows)

    def _unit(self, file: File, start: int, stop: int, rows: int) -> Unit:
        return Unit(
            unit_id(file.name, start, stop),
            file.name,
            start,
            stop,
            digest(self.options, fingerprint(file)),
            rows=max(1, rows),
        )

    @cached_property
    def _by_name(self) -> dict[str | None, File]:
        return {file.name: file for file in self.files}

    def _file(self, name: str | None) -> File:
        file = self._by_name.get(name)
        if file is None:
            raise DataError(f"{self.path}: {name} is gone since the run was planned; run it again")
        file.check()
        return file

    def _goes_on(self, last: Unit, unit: Unit) -> bool:
        # A packed file has to be unpacked from its beginning, so reading on is always cheaper.
        return last.stop == unit.start or (last.stop < unit.start and self.is_sequential(unit))

    def _run(self, file: File, run: Sequence[Unit]) -> Iterator[tuple[Unit, Read]]:
        records = self._records(file, run[0].start, run[-1].stop)
        held: Record | None = None
        for unit in run:
            found: list[Record] = []
            for record in chain([held] if held is not None else [], records):
                held = None
                if record[0] >= unit.stop:
                    held = record
                    break
                if record[0] >= unit.start:
                    found.append(record)
            yield unit, self._read(file, found)

    def _records(self, file: File, start: int, stop: int | None, *, bare: bool = False) -> Iterator[Record]:
        """The records that begin in a range, and one after it; bare: with what is no row at the beginning."""
        joiner = self._joiner()
        # A line belongs to the range in which it begins: whatever line the byte before is in is not ours.
        before = int(start > 0 and joiner is None)
        found = lines(blocks(file, start - before), start - before, self.max_bytes)
        if before:
            next(found, None)
        if start == 0:
            found = _without_mark(found)
        found = joiner(found) if joiner is not None else found
        if start == 0 and not bare:
            found = self._checked(file, found)
        for record in found:
            yield record
            if stop is not None and record[0] >= stop:
                return

    def _read(self, file: File, records: Sequence[Record]) -> Read:
        row_ids: list[str] = []
        rows: list[Sequence[Any]] = []
        rejected: list[Rejected] = []
        for begin, content in records:
            row_id = f"{file.name}@{begin}"
            try:
                if content is None:
                    raise ValueError(f"longer than the source's `max_bytes: {self.max_bytes}`")
                row = self._row(content)
            except (ValueError, RecursionError) as error:
                rejected.append(Rejected(row_id, str(error).partition("\n")[0]))
                continue
            if row is not None:
                row_ids.append(row_id)
                rows.append(row)
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(self.columns)
        batch = {
            name: self._column(name, list(column)) for name, column in zip(self.columns, columns, strict=True)
        }
        return Read({"row_id": objects(row_ids), **batch}, rejected)


def decoded_text(content: bytes) -> str:
    """Return UTF-8 as text.

    Raises:
        ValueError: It is none.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8 (byte {content[error.start]:#04x} at {error.start} of {len(content):,})"
        ) from error


def _without_mark(found: Iterator[Record]) -> Iterator[Record]:
    for begin, content in found:
        yield begin, content.removeprefix(b"\xef\xbb\xbf") if content is not None else None
        break
    yield from found


def _size(file: File) -> int:
    return sum(map(len, blocks(file))) if is_packed(file.name) else file.size


__all__ = ["MAX_BYTES", "Lines", "decoded_text"]
