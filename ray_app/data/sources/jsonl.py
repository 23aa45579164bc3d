"""Lines of JSON, an object each: plain files, gzip, zstd or bzip2.

A row is called `<file>@<byte>`, where its line begins. The first lines say which columns there are, and of
what type; a line that is no object, or has a value of another type, is rejected.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from ray_app.data.sources._fields import KINDS, Kind, check_types, column, kind_of, typed
from ray_app.data.sources._lines import MAX_BYTES, Lines, decoded_text
from ray_app.errors import DataError


class Jsonl(Lines):
    """Reads .jsonl, .ndjson and .json, packed or not.

    Args:
        path: A file, a folder (searched in depth) or a glob, here or in a store (`s3://…`); `~` and
            environment variables are expanded.
        columns: The keys to read; None: those of the first lines.
        types: Column → int, float, bool, text, list (of numbers) or json (whatever it is, as text); others
            are what most of the first lines have.
        max_bytes: Longer lines are rejected; nothing of them is held in memory.
    """

    kind = "jsonl"
    suffixes = (".jsonl", ".ndjson", ".json")

    def __init__(
        self,
        *,
        path: str,
        columns: Sequence[str] | None = None,
        types: Mapping[str, Kind] | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__(path=path, max_bytes=max_bytes)
        if columns is not None and (isinstance(columns, str) or not all(isinstance(c, str) for c in columns)):
            raise ValueError(f"jsonl: columns must be a list of names, got {columns!r}")
        check_types("jsonl", types, KINDS)
        self._chosen = list(columns) if columns is not None else None
        self._types = dict(types or {})

    @property
    def options(self) -> Mapping[str, Any]:
        """What changes the rows beside the files."""
        return {**super().options, "columns": self._chosen, "types": self._types}

    @property
    def columns(self) -> Sequence[str]:
        """The keys that are read, in the order in which they appear."""
        return list(self._kinds)

    def _row(self, content: bytes) -> Sequence[Any] | None:
        if (row := _object(content)) is None:
            return None
        return [typed(name, row.get(name), kind) for name, kind in self._kinds.items()]

    def _column(self, name: str, values: list[Any]) -> Any:
        return column(values, self._kinds[name])

    @cached_property
    def _kinds(self) -> dict[str, Kind]:
        rows: list[dict[str, Any]] = []
        for _, content in self._sample:
            try:
                row = _object(content) if content is not None else None
            except (ValueError, RecursionError):
                continue
            if row is not None:
                rows.append(row)
        if not self._sample:
            raise DataError(f"{self.path}: holds nothing; check the path")
        if not rows:
            raise DataError(f"{self.path}: no line of the beginning is a JSON object; is it JSONL?")
        known = list(dict.fromkeys(name for row in rows for name in row if name != "row_id"))
        for name in [*(self._chosen or ()), *self._types]:
            if name not in known:
                raise DataError(f"{self.path}: no {name!r} in its first lines (keys: {', '.join(known)})")
        return {
            name: self._types.get(name) or kind_of([row.get(name) for row in rows])
            for name in self._chosen or known
        }


def _object(content: bytes) -> dict[str, Any] | None:
    text = decoded_text(content)
    if not text or text.isspace():
        return None
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON ({error.msg} at character {error.pos:,})") from error
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error
    if not isinstance(row, dict):
        raise ValueError(f"JSON that is no object but {type(row).__name__}")
    return row
