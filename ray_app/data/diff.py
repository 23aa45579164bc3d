"""How two datasets differ: rows that only one of them has, and values that changed in those that both have.

Rows are compared by `row_id`, a part of them at a time (by hash), so that memory does not grow with the data.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ray_app.data.arrow import length, take
from ray_app.data.dataset import Dataset, open_dataset
from ray_app.methods.selectors import row_hash

# Rows that are compared at once.
_AT_ONCE = 200_000
_BATCH = 1024
_SHOWN = 5


@dataclass
class Changed:
    """A column's values in rows that both have."""

    rows: int = 0
    """Rows whose value differs."""
    largest: float = 0.0
    """The largest difference of numbers."""


@dataclass
class Difference:
    """What differs."""

    a: str
    b: str
    rows: tuple[int, int] = (0, 0)
    only_a: int = 0
    only_b: int = 0
    both: int = 0
    examples: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    """Some rows that only the one, or only the other, has."""
    columns_only: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    changed: dict[str, Changed] = field(default_factory=dict)
    """Of the columns that both have."""

    @property
    def same(self) -> bool:
        """Whether both hold the same rows and values."""
        values = any(one.rows for one in self.changed.values())
        return not (self.only_a or self.only_b or values or any(self.columns_only))

    def record(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "rows": list(self.rows),
            "only_a": self.only_a,
            "only_b": self.only_b,
            "both": self.both,
            "columns_only_a": self.columns_only[0],
            "columns_only_b": self.columns_only[1],
            "changed": {name: vars(one) for name, one in self.changed.items() if one.rows},
            "same": self.same,
        }

    def __str__(self) -> str:
        """Say it, for people."""
        lines = [f"rows      {self.rows[0]:,} and {self.rows[1]:,}, {self.both:,} in both"]
        for name, count, some in (("a", self.only_a, self.examples[0]), ("b", self.only_b, self.examples[1])):
            if count:
                lines.append(
                    f"only in {name} {count:,} rows: {', '.join(some)}{' …' if count > len(some) else ''}"
                )
        for name, columns in zip(("a", "b"), self.columns_only, strict=True):
            if columns:
                lines.append(f"only in {name} columns {', '.join(columns)}")
        for column, one in self.changed.items():
            if one.rows:
                by = f", by up to {one.largest:.6g}" if one.largest else ""
                lines.append(f"changed   {column} in {one.rows:,} rows{by}")
        return "\n".join(lines if not self.same else [*lines, "no difference"])


def diff(a: str | Path, b: str | Path) -> Difference:
    """Compare two datasets: built ones, or what specs describe.

    Raises:
        SpecError: See open_dataset.
        DataError: One has no rows, or cannot be read.
    """
    first, second = open_dataset(a), open_dataset(b)
    result = Difference(str(a), str(b))
    planned = max(sum(map(len, dataset.units())) for dataset in (first, second))
    parts = max(1, -(-planned // _AT_ONCE))
    for part in range(parts):
        _compare(result, first, second, part, parts)
    return result


def _compare(result: Difference, a: Dataset, b: Dataset, part: int, parts: int) -> None:
    left: dict[str, dict[str, Any]] = {}
    columns: list[list[str]] = [[], []]
    counts = [0, 0]
    for batch in _rows(a, part, parts):
        columns[0] = list(batch)
        for row, name in enumerate(batch["row_id"].tolist()):
            left[str(name)] = {column: values[row] for column, values in batch.items()}
            counts[0] += 1
    for batch in _rows(b, part, parts):
        columns[1] = list(batch)
        for row, name in enumerate(batch["row_id"].tolist()):
            counts[1] += 1
            if (other := left.pop(str(name), None)) is None:
                result.only_b += 1
                _show(result.examples[1], str(name))
                continue
            result.both += 1
            for column in other.keys() & batch.keys() - {"row_id"}:
                _note(result.changed.setdefault(column, Changed()), other[column], batch[column][row])
    result.only_a += len(left)
    for name in left:
        _show(result.examples[0], name)
    result.rows = (result.rows[0] + counts[0], result.rows[1] + counts[1])
    if all(columns):
        result.columns_only = (
            [name for name in columns[0] if name not in columns[1]],
            [name for name in columns[1] if name not in columns[0]],
        )
    result.changed = dict(sorted(result.changed.items()))


def _rows(dataset: Dataset, part: int, parts: int) -> Iterator[dict[str, np.ndarray]]:
    for batch in dataset.batches(batch_size=_BATCH):
        wanted = row_hash(batch["row_id"]) % np.uint64(parts) == part
        if length(chosen := take(batch, wanted)):
            yield chosen


def _note(changed: Changed, one: Any, other: Any) -> None:
    if isinstance(one, (np.ndarray, np.number, float, int)) and isinstance(
        other, (np.ndarray, np.number, float, int)
    ):
        x, y = np.asarray(one), np.asarray(other)
        if x.shape == y.shape and x.dtype.kind in "fiub" and y.dtype.kind in "fiub":
            if not np.array_equal(x, y, equal_nan=x.dtype.kind == "f" and y.dtype.kind == "f"):
                changed.rows += 1
                gap = np.abs(x.astype(np.float64) - y.astype(np.float64))
                changed.largest = max(changed.largest, float(np.nanmax(gap, initial=0.0)))
            return
        changed.rows += 1
        return
    changed.rows += bool(one != other)


def _show(examples: list[str], name: str) -> None:
    if len(examples) < _SHOWN:
        examples.append(name)


__all__ = ["Changed", "Difference", "diff"]
