"""Rows of CSV and TSV files with one header, plain or packed (gzip, zstd, bzip2).

A row is called `<file>@<byte>`, where it begins. A column is a number where all of its first cells are; a row
with more or fewer cells than the header, or a cell that is no number where one must be, is rejected.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from ray_app.data.sources._fields import Kind, check_types, column, kind_of_cells, typed_cell
from ray_app.data.sources._files import File
from ray_app.data.sources._lines import MAX_BYTES, Lines, decoded_text
from ray_app.data.sources._records import Joiner, Record, quoted
from ray_app.errors import DataError


class Csv(Lines):
    """Reads .csv and .tsv, packed or not; an empty cell is an empty text, or NaN in a column of numbers.

    Args:
        path: A file, a folder (searched in depth) or a glob, here or in a store (`s3://…`); `~` and
            environment variables are expanded.
        header: Names of the cells where files have no header; None: the first row has them.
        columns: Those to read; None: all.
        types: Column → int, float or text; others are what the first rows have.
        delimiter: Between cells; None: a tab in .tsv files, a comma otherwise.
        multiline: Whether quoted cells may hold line ends; files are then read once to divide them.
        max_bytes: Longer rows are rejected; nothing of them is held in memory.
    """

    kind = "csv"
    suffixes = (".csv", ".tsv")

    def __init__(
        self,
        *,
        path: str,
        header: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        types: Mapping[str, Kind] | None = None,
        delimiter: str | None = None,
        multiline: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__(path=path, max_bytes=max_bytes)
        for option, value in (("header", header), ("columns", columns)):
            if value is not None and (isinstance(value, str) or not all(isinstance(v, str) for v in value)):
                raise ValueError(f"csv: {option} must be a list of names, got {value!r}")
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise ValueError(
                f"csv: delimiter must be one character, no quote and no line end, got {delimiter!r}"
            )
        check_types("csv", types, ("int", "float", "text"))
        self.header = list(header) if header is not None else None
        self.multiline = multiline
        self._chosen = list(columns) if columns is not None else None
        self._types = dict(types or {})
        self._delimiter = delimiter

    @property
    def options(self) -> Mapping[str, Any]:
        """What changes the rows beside the files."""
        said = (self.header, self._chosen, self._types, self._delimiter, self.multiline)
        return {**super().options, "csv": said}

    @property
    def columns(self) -> Sequence[str]:
        """The header's names, or those of them that are chosen."""
        return [name for name in self._chosen or self._names if name != "row_id"]

    def _joiner(self) -> Joiner | None:
        return quoted(b'"', self.max_bytes) if self.multiline else None

    def _checked(self, file: File, found: Iterator[Record]) -> Iterator[Record]:
        if self.header is None:
            first = next(found, None)
            if first is not None and file is not self.files[0] and self._header(file, first) != self._names:
                raise DataError(
                    f"{file.place}: its header is not that of {self.files[0].place}; read them apart"
                )
        yield from found

    def _row(self, content: bytes) -> Sequence[Any] | None:
        if not content.strip():
            return None
        cells = self._cells(content)
        if len(cells) != len(self._names):
            raise ValueError(f"{len(cells)} cells instead of {len(self._names)}")
        return [typed_cell(name, cells[position], kind) for name, position, kind in self._kinds.values()]

    def _column(self, name: str, values: list[Any]) -> Any:
        return column(values, self._kinds[name][2])

    def _cells(self, content: bytes) -> list[str]:
        # The library's own limit is 128 KiB, and counts characters.
        csv.field_size_limit(max(csv.field_size_limit(), self.max_bytes))
        text = decoded_text(content)
        try:
            rows = list(csv.reader([text], delimiter=self.delimiter, strict=True))
        except csv.Error as error:
            mend = "" if self.multiline else "; if its cell goes on in the next line, say `multiline: true`"
            raise ValueError(f"broken CSV ({error}){mend}") from error
        return [cell for row in rows for cell in row]

    @property
    def delimiter(self) -> str:
        """What is between cells."""
        return self._delimiter or ("\t" if ".tsv" in self.files[0].name.lower() else ",")

    @cached_property
    def _names(self) -> list[str]:
        if self.header is not None:
            return self.header
        file = self.files[0]
        first = next(self._records(file, 0, 0, bare=True), None)
        if first is None:
            raise DataError(f"{file.place}: is empty; expected a header")
        return self._header(file, first)

    def _header(self, file: File, first: Record) -> list[str]:
        try:
            names = self._cells(first[1] or b"")
        except ValueError as error:
            raise DataError(f"{file.place}: its header cannot be read ({error})") from error
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"{file.place}: has two columns {twice[0]!r}; give other names with `header:`")
        return names

    @cached_property
    def _kinds(self) -> dict[str, tuple[str, int, Kind]]:
        """Column → its name, its position and its type."""
        names = self._names
        for name in [*(self._chosen or ()), *self._types]:
            if name not in names:
                raise DataError(f"{self.path}: has no column {name!r} (columns: {', '.join(names)})")
        rows: list[list[str]] = []
        for _, content in self._sample:
            try:
                cells = self._cells(content or b"")
            except ValueError:
                continue
            if len(cells) == len(names):
                rows.append(cells)
        return {
            name: (name, position, self._types.get(name) or kind_of_cells([row[position] for row in rows]))
            for name in self.columns
            for position in [names.index(name)]
        }
