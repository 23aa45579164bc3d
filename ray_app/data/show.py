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


def show_page(what: str | Path, path: Path, rows: int = 5) -> Path:
    """Write the first rows to a page; images are shown as such.

    Raises:
        SpecError: See open_dataset.
        DataError: It has no rows, or they cannot be read.
    """
    # matplotlib comes with it, which the terminal does without.
    from ray_app.report.page import Picture, Section, Table, write_page

    dataset = open_dataset(what)
    first = dataset.read(limit=rows)
    labels = dataset.labels
    section = Section(f"The first {length(first)} rows")
    plain = {name: column for name, column in first.items() if name != "image"}
    section.tables.append(
        Table(
            ["column", *first["row_id"].tolist()],
            [[name, *(_value(value) for value in column)] for name, column in plain.items()],
        )
    )
    for row, image in enumerate(first.get("image", ())):
        label = f", {labels[int(first['label'][row])]}" if labels and "label" in first else ""
        section.pictures.append(Picture(np.asarray(image), f"{first['row_id'][row]}{label}"))
    lead = f"{sum(map(len, dataset.units())):,} rows of input; columns {', '.join(first)}."
    spec = dataset.spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    return write_page(
        path,
        f"Dataset: {dataset.name}",
        lead,
        [section],
        {"fingerprint": dataset.fingerprint, "spec": spec},
        f"ray-app data show {what}",
    )


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
    text = " ".join(str(value).split())
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
