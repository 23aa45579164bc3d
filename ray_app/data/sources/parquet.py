"""Rows of Parquet files: one file, a folder of them, or a glob.

A row is called `<file>#<index>`, unless the files have a column `row_id` already, as datasets that ray-app
built have.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_app.data.sources import UNIT_BYTES, Read, Source, Unit, digest, ranges, runs
from ray_app.data.sources._files import File, find, fingerprint
from ray_app.data.sources._tables import rows_of
from ray_app.errors import DataError
from ray_app.storage import Place

# Rows decoded at a time; a row group may hold a million.
_STEP = 1024


class Parquet(Source):
    """Reads tables whose files have the same columns.

    Args:
        path: A file, a folder (searched in depth) or a glob, here or in a store (`s3://…`); `~` and
            environment variables are expanded.
        columns: The file's columns to read; None: all. Those that nobody reads cost nothing.
    """

    def __init__(self, *, path: str, columns: Sequence[str] | None = None) -> None:
        if not isinstance(path, str) or not path:
            raise ValueError(f"parquet: path must be a file, a folder or a glob, got {path!r}")
        if columns is not None and (
            isinstance(columns, str) or not all(isinstance(name, str) for name in columns)
        ):
            raise ValueError(f"parquet: columns must be a list of names, got {columns!r}")
        self.path = Place.of(path).uri
        self._chosen = list(columns) if columns is not None else None

    @property
    def columns(self) -> Sequence[str]:
        """The files' columns."""
        return [name for name in self.schema.names if name != "row_id"]

    @cached_property
    def schema(self) -> pa.Schema:
        """The first file's schema, of the columns that are read.

        Raises:
            DataError: It cannot be read, or lacks a column.
        """
        file = self.files[0]
        schema = _open(file.place).schema_arrow
        if self._chosen is None:
            return schema
        if missing := [name for name in self._chosen if name not in schema.names]:
            raise DataError(
                f"{file.place}: has no column {missing[0]!r} (columns: {', '.join(schema.names)})"
            )
        extra = ["row_id"] if "row_id" in schema.names and "row_id" not in self._chosen else []
        return pa.schema([schema.field(name) for name in [*extra, *self._chosen]], metadata=schema.metadata)

    @property
    def labels(self) -> Sequence[str]:
        """Nothing: a table does not say what its numbers mean."""
        return []

    @cached_property
    def files(self) -> list[File]:
        """The files, sorted by name."""
        return find(self.path, (".parquet", ".pq"))

    @cached_property
    def _by_name(self) -> dict[str | None, File]:
        return {file.name: file for file in self.files}

    def fingerprint(self) -> str:
        """Return a hash of the files' names and fingerprints."""
        return digest(self._chosen, [(file.name, fingerprint(file)) for file in self.files])

    def largest(self, column: str) -> int | None:
        """Return the largest whole number in a column, from the files' statistics."""
        found: list[int] = []
        for file in self.files:
            metadata = _open(file.place).metadata
            names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
            if column not in names:
                return None
            for group in range(metadata.num_row_groups):
                statistics = metadata.row_group(group).column(names.index(column)).statistics
                if statistics is None or not statistics.has_min_max or not isinstance(statistics.max, int):
                    return None
                found.append(statistics.max)
        return max(found, default=None)

    def units(self, rows_per_unit: int) -> list[Unit]:
        """Divide the rows that the footers count, which also say whether the files belong together."""
        found: list[Unit] = []
        for file in self.files:
            opened = _open(file.place)
            _common(file.place, opened.schema_arrow, self.schema)
            own = digest(self._chosen, fingerprint(file))
            parts = ranges(file.name, opened.metadata.num_rows, _fitting(opened.metadata, rows_per_unit), own)
            found += [replace(unit, path=file.name) for unit in parts]
        if not found:
            raise DataError(f"{self.path}: holds no rows; check the path")
        return found

    def read(self, unit: Unit) -> Read:
        """Return a unit's rows."""
        return next(self.stream([unit]))[1]

    def stream(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Read]]:
        """Read units; those of one file that follow each other decode it once."""
        for run in runs(units, lambda last, unit: last.stop == unit.start):
            file = self._by_name.get(run[0].path)
            if file is None:
                raise DataError(f"{self.path}: {run[0].path} is gone since the run was planned; run it again")
            tables = _pieces(file.place, self.schema, run[0].start)
            rest: pa.Table | None = None
            for unit in run:
                table, rest = _fill(rest, tables, len(unit), file, unit)
                names = [f"{file.name}#{index}" for index in range(unit.start, unit.stop)]
                yield unit, rows_of(table, names)


def _fitting(metadata: Any, rows_per_unit: int) -> int:
    """Rows of a unit whose rows are as large as the file's are on average."""
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    return max(1, min(rows_per_unit, UNIT_BYTES * metadata.num_rows // max(1, size)))


def _open(place: Place) -> Any:
    try:
        return pq.ParquetFile(place.open(), pre_buffer=not place.is_local)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{place}: not readable as Parquet ({str(error).splitlines()[0]})") from error


def _pieces(place: Place, schema: pa.Schema, start: int) -> Iterator[pa.Table]:
    """Tables from row `start` on, each small; row groups before it are not decoded."""
    file = _open(place)
    target = _common(place, file.schema_arrow, schema)
    skip, groups = start, list(range(file.metadata.num_row_groups))
    while groups and skip >= (rows := file.metadata.row_group(groups[0]).num_rows):
        skip -= rows
        groups.pop(0)
    try:
        for record in file.iter_batches(batch_size=_STEP, row_groups=groups, columns=schema.names):
            if skip >= record.num_rows:
                skip -= record.num_rows
                continue
            yield pa.Table.from_batches([record.slice(skip)]).select(target.names).cast(target)
            skip = 0
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{place}: damaged after its footer was read ({str(error).splitlines()[0]})"
        ) from error


def _common(place: Place, found: pa.Schema, expected: pa.Schema) -> pa.Schema:
    """Return as what to read a file, so that a column has one type in all files.

    Raises:
        DataError: It lacks a column that the first file has, or holds something else in it.
    """
    fields = []
    for field in expected:
        if field.name not in found.names:
            raise DataError(
                f"{place}: has no column {field.name!r}, which the first file has"
                f" (columns: {', '.join(found.names)}); read them apart, or choose `columns`"
            )
        own = found.field(field.name)
        if not (_widens(own.type, field.type) or _read_alike(own.type, field.type)):
            raise DataError(
                f"{place}: its column {field.name!r} is {own.type}, the first file's is {field.type};"
                " read them apart, or choose `columns`"
            )
        fields.append(own.with_type(field.type) if _widens(own.type, field.type) else own)
    return pa.schema(fields)


def _widens(kind: pa.DataType, other: pa.DataType) -> bool:
    # An int32 is an int64 too; what may lose a digit is refused. The file's strings may be large or not.
    if pa.types.is_primitive(kind) and pa.types.is_primitive(other):
        return bool(np.can_cast(kind.to_pandas_dtype(), other.to_pandas_dtype(), "safe"))
    texts = {pa.string(), pa.large_string()}
    return {kind, other} <= texts or {kind, other} <= {pa.binary(), pa.large_binary()}


def _read_alike(kind: pa.DataType, other: pa.DataType) -> bool:
    """Whether one build may have written both, for units that looked different."""
    if kind == other or pa.types.is_null(kind) or pa.types.is_null(other):
        return True
    # Arrays of one shape are lists of one length, others are not; where all are missing, they are strings.
    if pa.types.is_nested(kind) and pa.types.is_nested(other):
        return True
    return {kind, other} <= {pa.string(), pa.large_string(), pa.binary(), pa.large_binary()}


def _fill(
    rest: pa.Table | None, tables: Iterator[pa.Table], rows: int, file: File, unit: Unit
) -> tuple[pa.Table, pa.Table | None]:
    """Take exactly `rows` rows; what is left of the last piece is the next unit's beginning."""
    parts, count = ([rest], rest.num_rows) if rest is not None else ([], 0)
    while count < rows:
        piece = next(tables, None)
        if piece is None:
            raise DataError(
                f"{file.place}: has no row {unit.stop - 1} any more; it changed since the run was planned"
            )
        parts.append(piece)
        count += piece.num_rows
    table = pa.concat_tables(parts)
    return table.slice(0, rows), table.slice(rows) if count > rows else None
