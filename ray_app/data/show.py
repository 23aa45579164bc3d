"""What a dataset holds, for people: columns, classes, splits, first rows."""

from pathlib import Path
from typing import Any

import numpy as np

from ray_app.data.arrow import length
from ray_app.data.dataset import open_dataset
from ray_app.errors import DataError
from ray_app.spec.dataset import DatasetSpec

_WIDTH = 40


def show(what: DatasetSpec | str | Path, rows: int = 5) -> str:
    """Return a page about a dataset: its columns and first rows; only those are read.

    Raises:
        SpecError: See open_dataset.
        DataError: It has no rows, or they cannot be read.
    """
    dataset = open_dataset(what)
    units = dataset.units()
    first = dataset.read(limit=rows)
    if not length(first):
        raise DataError(f"{dataset.name}: {dataset.none_left(None)}")
    lines = [
        f"{dataset.name}  {sum(map(len, units)):,} rows of input in {len(units):,} units",
        f"print    {dataset.fingerprint}",
        f"labels   {', '.join(dataset.labels) or 'none'}",
        f"splits   {', '.join(f'{name} {share:g}' for name, share in dataset.rule.shares.items()) or 'none'}",
        "columns  " + ", ".join(f"{name} {_kind(column)}" for name, column in first.items()),
    ]
    for row in range(length(first)):
        lines.append("")
        lines += [f"  {name:<12} {_value(column[row])}" for name, column in first.items()]
    return "\n".join(lines)


def _kind(column: np.ndarray) -> str:
    if column.dtype == object:
        return type(column[0]).__name__
    return f"{column.dtype}{list(column.shape[1:]) if column.ndim > 1 else ''}"


def _value(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim:
        return (
            f"{value.dtype} {list(value.shape)}, {value.min():g} to {value.max():g}"
            if value.size
            else "empty"
        )
    text = str(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
