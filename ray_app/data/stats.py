"""What each column of a dataset holds: counts, ranges, quantiles, frequent values; in one pass."""

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app.data.dataset import Dataset, open_dataset
from ray_app.methods.selectors import row_hash
from ray_app.storage import Place

if TYPE_CHECKING:
    from ray_app.report.page import Section

# Values of each column that quantiles and histograms are taken from: those with the smallest hashes.
_SAMPLE = 10_000
# Different values that are counted one by one; a column with more is not one of classes.
_VALUES = 1000
_SHOWN = 8
_NAME = 200
_BATCH = 1024


@dataclass
class Column:
    """What is known of a column."""

    name: str
    kind: str = ""
    """Of its first value: `float32`, `text`, `bytes`, `uint8 [8, 8, 1]`."""
    measure: str = "value"
    """What the numbers are: values, or lengths of what has no value (characters, elements)."""
    rows: int = 0
    missing: int = 0
    """None, NaN, or empty text."""
    mean: float = math.nan
    """Of the numbers."""
    spread: float = 0.0
    """Sum of squared deviations from the mean."""
    least: float = math.inf
    most: float = -math.inf
    values: Counter[Any] | None = field(default_factory=Counter)
    """How often each value occurs; None: there are too many."""
    sample: list[tuple[int, float]] = field(default_factory=list)

    @property
    def std(self) -> float:
        """Of the numbers, about their mean."""
        there = self.rows - self.missing
        return math.sqrt(self.spread / there) if there else math.nan

    @property
    def numbers(self) -> np.ndarray:
        """A sample of the numbers."""
        return np.array([value for _, value in self.sample], dtype=np.float64)

    def quantile(self, share: float) -> float:
        """Return a quantile, of the sample."""
        return float(np.quantile(self.numbers, share)) if self.sample else math.nan

    def frequent(self) -> list[tuple[str, int]]:
        """Return the most frequent values, where it has few different ones."""
        if not self.values or self.values.most_common(1)[0][1] == 1:
            return []
        return [(str(value), count) for value, count in self.values.most_common(_SHOWN)]


def summarize(what: "Place | str | Path | Dataset", split: str | None = None) -> list[Column]:
    """Return a summary of each column of a dataset, in their order.

    Raises:
        SpecError: See open_dataset; or no such split.
        DataError: It has no rows, or they cannot be read.
    """
    dataset = what if isinstance(what, Dataset) else open_dataset(what)
    columns: dict[str, Column] = {}
    for batch in dataset.batches(split, batch_size=_BATCH):
        order = row_hash(batch["row_id"]).tolist()
        for name, values in batch.items():
            _add(columns.setdefault(name, Column(name)), values, order)
    return list(columns.values())


def table(columns: list[Column]) -> tuple[list[str], list[list[Any]]]:
    """Return names and rows of a table for people."""
    names = [
        "column",
        "holds",
        "rows",
        "missing",
        "of",
        "mean",
        "std",
        "min",
        "5%",
        "median",
        "95%",
        "max",
        "values",
    ]
    rows = []
    for column in columns:
        numbers = [
            column.mean,
            column.std,
            column.least,
            *map(column.quantile, (0.05, 0.5, 0.95)),
            column.most,
        ]
        shown = [f"{number:.4g}" if math.isfinite(number) else "" for number in numbers]
        often = ", ".join(f"{_short(value)} ({count:,})" for value, count in column.frequent())
        rows.append(
            [
                column.name,
                column.kind,
                f"{column.rows:,}",
                f"{column.missing:,}",
                column.measure,
                *shown,
                often,
            ]
        )
    return names, rows


def records(columns: list[Column]) -> list[dict[str, Any]]:
    """Return the summaries for machines."""
    return [
        {
            "column": column.name,
            "kind": column.kind,
            "of": column.measure,
            "rows": column.rows,
            "missing": column.missing,
            "mean": _finite(column.mean),
            "std": _finite(column.std),
            "min": _finite(column.least),
            "median": _finite(column.quantile(0.5)),
            "max": _finite(column.most),
            "frequent": dict(column.frequent()),
        }
        for column in columns
    ]


def stats_page(what: str, columns: list[Column], path: Path) -> Path:
    """Write the summaries and histograms as a page."""
    from ray_app.report.page import write_page

    rows = max((column.rows for column in columns), default=0)
    lead = f"{rows:,} rows in {len(columns)} columns."
    return write_page(path, f"Statistics: {what}", lead, sections(columns), {}, f"ray-app data stats {what}")


def sections(columns: list[Column]) -> "list[Section]":
    """Return what a page says of the columns; scores have their histograms."""
    from ray_app.report import plots
    from ray_app.report.page import Section, Table

    names, rows = table(columns)
    section = Section("Columns", "Quantiles are of a sample.", tables=[Table(names, rows)])
    scores = [column for column in columns if column.name.startswith("score_")]
    # Names of a few dozen characters are no texts.
    lengths = [column for column in columns if column.kind == "text" and column.most > _NAME]
    for column in [*scores, *lengths]:
        numbers = column.numbers
        if len(numbers) and np.ptp(numbers) > 0:
            what = column.name if column.measure == "value" else f"{column.measure} of {column.name}"
            section.figures.append((what, plots.histograms({column.name: numbers}, what)))
    return [section]


def _add(column: Column, values: np.ndarray, order: list[int]) -> None:
    column.rows += len(values)
    if not column.kind and len(values):
        column.kind, column.measure = _kind(values)
    numbers: list[float] = []
    for value in values:
        number = _number(value)
        numbers.append(number)
        if column.values is not None and column.measure != "elements":
            plain = value.item() if isinstance(value, np.generic) else value
            if isinstance(plain, (str, int, bool)):
                column.values[plain] += 1
            if len(column.values) > _VALUES or not isinstance(plain, (str, int, bool)):
                column.values = None
        elif column.measure == "elements":
            column.values = None
    there = np.array([number for number in numbers if math.isfinite(number)], dtype=np.float64)
    before = column.rows - len(values) - column.missing
    column.missing += len(numbers) - len(there)
    if len(there):
        # Pairwise (Chan, Golub, LeVeque 1979): a mean of squares less a squared mean loses all digits.
        mean, spread = float(there.mean()), float(np.square(there - there.mean()).sum())
        gap = mean - column.mean if before else 0.0
        total = before + len(there)
        column.spread += spread + gap * gap * before * len(there) / total
        column.mean = column.mean + gap * len(there) / total if before else mean
        column.least = min(column.least, float(there.min()))
        column.most = max(column.most, float(there.max()))
    column.sample += [
        (key, number) for key, number in zip(order, numbers, strict=True) if math.isfinite(number)
    ]
    if len(column.sample) > 2 * _SAMPLE:
        column.sample = sorted(column.sample)[:_SAMPLE]


def _kind(values: np.ndarray) -> tuple[str, str]:
    first = next((value for value in values if value is not None), None)
    if isinstance(first, str):
        return "text", "characters"
    if isinstance(first, bytes):
        return "bytes", "bytes"
    if isinstance(first, np.ndarray):
        return f"{first.dtype} {list(first.shape)}", "elements"
    return str(values.dtype) if values.dtype != object else type(first).__name__, "value"


def _number(value: Any) -> float:
    """A value, or the length of what has none; NaN where it is missing."""
    if value is None:
        return math.nan
    if isinstance(value, (str, bytes)):
        return float(len(value)) if value else math.nan
    if isinstance(value, np.ndarray):
        return float(value.size)
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _short(value: str) -> str:
    return value if len(value) <= 24 else f"{value[:23]}…"


__all__ = ["Column", "records", "sections", "stats_page", "summarize", "table"]
