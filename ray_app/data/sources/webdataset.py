"""Samples of WebDataset tars: members with one key become a row.

    png jpg jpeg webp gif bmp tif   image, decoded by the engine
    wav flac ogg mp3                audio, decoded by the engine
    cls                             label, a number or a name
    txt                             text
    json                            a column for each of its keys

A row is called `<file>@<byte>`, where it begins in its tar; the column `key` has its key. The first samples
say which columns there are; a sample that lacks a member is rejected. Other members are left out.

Reference: the WebDataset format, https://github.com/webdataset/webdataset
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

from ray_app.data.arrow import objects
from ray_app.data.sources import UNIT_BYTES, Read, Rejected, Source, Unit, digest, runs, unit_id
from ray_app.data.sources._fields import KINDS, Kind, check_types, column, kind_of, typed
from ray_app.data.sources._files import File, find, fingerprint
from ray_app.data.sources._lines import decoded_text
from ray_app.data.sources._tars import SUFFIXES, Sample, is_packed, leads_outside, samples
from ray_app.errors import DataError
from ray_app.storage import Place

_COLUMNS = {
    **dict.fromkeys(("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"), "image"),
    **dict.fromkeys(("wav", "flac", "ogg", "mp3"), "audio"),
    "cls": "label",
    "txt": "text",
}
_WANTED = frozenset({*_COLUMNS, "json"})
_SAMPLED = 100


class Webdataset(Source):
    """Reads .tar, plain or packed (gzip, zstd, bzip2; a packed one is unpacked once to divide it).

    Args:
        path: A file, a folder (searched in depth) or a glob, here or in a store (`s3://…`); `~` and
            environment variables are expanded.
        types: Column of `json` → int, float, bool, text, list (of numbers) or json (whatever it is, as text);
            others are what most of the first samples have.
        max_bytes: Samples with a larger member are rejected.
    """

    def __init__(
        self, *, path: str, types: Mapping[str, Kind] | None = None, max_bytes: int = 64 * 2**20
    ) -> None:
        if not isinstance(path, str) or not path:
            raise ValueError(f"webdataset: path must be a file, a folder or a glob, got {path!r}")
        if not isinstance(max_bytes, int) or max_bytes < 1:
            raise ValueError(f"webdataset: max_bytes must be at least 1, got {max_bytes!r}")
        check_types("webdataset", types, KINDS)
        self.path = Place.of(path).uri
        self.max_bytes = max_bytes
        self._types = dict(types or {})

    @property
    def columns(self) -> Sequence[str]:
        """`key`, and what the first samples have."""
        return ["key", *self._media, *self._kinds]

    @property
    def labels(self) -> Sequence[str]:
        """Nothing: numbers do not say what they mean."""
        return []

    @cached_property
    def files(self) -> list[File]:
        """The files, sorted by name."""
        return find(self.path, SUFFIXES)

    def fingerprint(self) -> str:
        """Return a hash of the options, and of the files' names and fingerprints."""
        return digest(self._types, self.max_bytes, [(file.name, fingerprint(file)) for file in self.files])

    def units(self, rows_per_unit: int) -> list[Unit]:
        """Divide the samples; of plain tars only the members' headers are read."""
        found = [unit for file in self.files for unit in self._units(file, rows_per_unit)]
        if not found:
            raise DataError(f"{self.path}: holds no samples; check the path")
        return found

    def read(self, unit: Unit) -> Read:
        """Return a unit's samples."""
        return next(self.stream([unit]))[1]

    def stream(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Read]]:
        """Read units; those of one file that follow each other cost one reading of it."""

        def goes_on(last: Unit, unit: Unit) -> bool:
            return last.stop == unit.start or (last.stop < unit.start and self.is_sequential(unit))

        for run in runs(units, goes_on):
            file = self._by_name.get(run[0].path)
            if file is None:
                raise DataError(f"{self.path}: {run[0].path} is gone since the run was planned; run it again")
            file.check()
            found = samples(file, run[0].start, wanted=_WANTED, max_bytes=self.max_bytes)
            for unit in run:
                # A unit ends where a sample does, so none is taken that the next one needs.
                yield unit, self._read(file, unit, found)

    def is_sequential(self, unit: Unit) -> bool:
        """Tell whether its file is packed."""
        return is_packed(str(unit.path))

    @cached_property
    def _by_name(self) -> dict[str | None, File]:
        return {file.name: file for file in self.files}

    def _units(self, file: File, rows_per_unit: int) -> Iterator[Unit]:
        start = stop = rows = 0
        for sample in samples(file, wanted=frozenset(), max_bytes=0):
            if rows and (rows == rows_per_unit or sample.end - start > UNIT_BYTES):
                yield self._unit(file, start, stop, rows)
                rows = 0
            start = start if rows else sample.begin
            rows += 1
            stop = sample.end
        if rows:
            yield self._unit(file, start, stop, rows)

    def _unit(self, file: File, start: int, stop: int, rows: int) -> Unit:
        own = digest(self._types, self.max_bytes, fingerprint(file))
        return Unit(unit_id(file.name, start, stop), file.name, start, stop, own, rows=rows)

    def _read(self, file: File, unit: Unit, found: Iterator[Sample]) -> Read:
        row_ids: list[str] = []
        rows: list[list[Any]] = []
        rejected: list[Rejected] = []
        for sample in found:
            if sample.begin >= unit.start:
                row_id = f"{file.name}@{sample.begin}"
                try:
                    rows.append(self._row(sample))
                    row_ids.append(row_id)
                except (ValueError, RecursionError) as error:
                    rejected.append(Rejected(row_id, f"{sample.key}: {str(error).partition(chr(10))[0]}"))
            if sample.end >= unit.stop:
                break
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(self.columns)
        batch = {
            name: column(list(values), self._kinds[name])
            if name in self._kinds
            else _media(name, list(values))
            for name, values in zip(self.columns, columns, strict=True)
        }
        return Read({"row_id": objects(row_ids), **batch}, rejected)

    def _row(self, sample: Sample) -> list[Any]:
        if leads_outside(sample.key):
            raise ValueError("its name leads outside of the archive")
        if sample.twice:
            raise ValueError(f"has two members {sample.twice}")
        for extension, size in sample.sizes.items():
            if extension.rpartition(".")[2] in _WANTED and size > self.max_bytes:
                raise ValueError(
                    f"{extension} of {size:,} bytes; the source's `max_bytes` is {self.max_bytes:,}"
                )
        given, said = _parsed(sample)
        if missing := [name for name in self._media if name not in given]:
            raise ValueError(f"no member for {missing[0]} (members: {', '.join(sample.members)})")
        values = [typed(name, said.get(name), kind) for name, kind in self._kinds.items()]
        return [sample.key, *(given[name] for name in self._media), *values]

    @cached_property
    def _first(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Of the first samples that can be parsed: what their members hold, and what their JSON says."""
        found = []
        for sample in islice(samples(self.files[0], wanted=_WANTED, max_bytes=self.max_bytes), _SAMPLED):
            try:
                given, said = _parsed(sample)
            except (ValueError, RecursionError):
                continue
            found.append((dict.fromkeys(given), said))
        if not any(given or said for given, said in found):
            raise DataError(
                f"{self.files[0].place}: its first samples have no member that is known"
                f" ({', '.join(sorted(_WANTED))}); are they named <key>.<extension>?"
            )
        return found

    @cached_property
    def _media(self) -> list[str]:
        return sorted({name for given, _ in self._first for name in given})

    @cached_property
    def _kinds(self) -> dict[str, Kind]:
        names = dict.fromkeys(name for _, said in self._first for name in said)
        taken = {"row_id", "key", *self._media}
        return {
            name: self._types.get(name) or kind_of([said.get(name) for _, said in self._first])
            for name in names
            if name not in taken
        }


def _parsed(sample: Sample) -> tuple[dict[str, Any], dict[str, Any]]:
    given: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for extension, content in sample.members.items():
        last = extension.rpartition(".")[2]
        if content is None:
            continue
        if last == "json":
            row = json.loads(decoded_text(content))
            if not isinstance(row, dict):
                raise ValueError(f"JSON that is no object but {type(row).__name__}")
            said.update(row)
        elif (name := _COLUMNS.get(last)) is not None:
            if name in given:
                raise ValueError(f"has two members for {name}")
            given[name] = content if name in ("image", "audio") else decoded_text(content)
    if "label" in given:
        label = given["label"].strip()
        given["label"] = int(label) if label.lstrip("-").isascii() and label.lstrip("-").isdigit() else label
    return given, said


def _media(name: str, values: list[Any]) -> Any:
    if name == "label" and all(isinstance(value, int) and abs(value) < 2**63 for value in values):
        return column(values, "int")
    return objects(values)
