"""Choose among a build's rows when all are scored, without ever bringing them together.

A selector that judges rows one by one needs a cut-off, found digit by digit in a few passes over the columns
it reads. One that compares rows needs those that share a key side by side: a group-by, in partitions. Only
one that must see everything gets a sample, in this process. Of each row the driver keeps one bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app.data.arrow import concat, length, take
from ray_app.data.cutoff import by_row
from ray_app.data.grouping import without_duplicates
from ray_app.data.learned import build_selector
from ray_app.data.selected import Each, Here, Part, grouped, read_rows, view_of
from ray_app.errors import DataError
from ray_app.methods.selectors import DuplicateSelector, Fitted, RowSelector, Selector, row_hash

if TYPE_CHECKING:
    from ray_app.methods import Batch
    from ray_app.spec import Method


@dataclass(frozen=True)
class Chosen:
    """What a selector left, and what a report may say of it."""

    name: str
    rows_before: int
    rows_after: int
    notes: Mapping[str, Any] = field(default_factory=dict)


def select(
    parts: Sequence[Part], step: "Method", *, seed: int, pool_rows: int, each: Each, where: str
) -> tuple[list[Part], Chosen]:
    """Let one selector choose.

    Args:
        parts: Sorted by unit.
        step: The selector.
        seed: Of its chance.
        pool_rows: Rows at most that are brought together, for a selector that needs that.
        each: Where the work is done.
        where: How to call the dataset.

    Raises:
        DataError: A column cannot be read as the selector needs it.
    """
    selector = build_selector(step)
    parts = list(parts)
    before = sum(int(part.left.sum()) for part in parts)
    notes: Mapping[str, Any] = {}
    try:
        rng = np.random.default_rng(seed)
        if isinstance(selector, Fitted):
            selector.fit(view_of(pool(parts, selector, pool_rows, each), selector), rng)
        if isinstance(selector, RowSelector):
            parts = by_row(parts, selector, each)
        elif isinstance(selector, DuplicateSelector):
            parts = without_duplicates(parts, selector, each)
        else:
            parts, notes = of_pool(parts, selector, pool_rows, rng, each)
    except ValueError as error:
        raise DataError(f"{where}: selectors/{step.name}: {error}") from error
    after = sum(int(part.left.sum()) for part in parts)
    return parts, Chosen(step.name, before, after, notes)


def of_pool(
    parts: list[Part], selector: Selector, pool_rows: int, rng: np.random.Generator, each: Each
) -> tuple[list[Part], Mapping[str, Any]]:
    batch = pool(parts, selector, pool_rows, each)
    view = view_of(batch, selector)
    total = float(view.spending().sum()) if len(view) else 0.0
    selection = selector.select(view, selector.budget(len(view), total), rng)
    wanted = set(batch["row_id"][selection.indices].tolist()) if len(view) else set()
    chosen = each.map(_Named(wanted), grouped(parts))
    result = [
        part.keeping(mask)
        for group, masks in zip(grouped(parts), chosen, strict=True)
        for (_, part), mask in zip(group, masks, strict=True)
    ]
    return result, {"pool": len(view), **selection.notes}


def pool(parts: list[Part], selector: Selector, pool_rows: int, each: Each) -> "Batch":
    """A sample by hash of what a selector reads, at most so many rows."""
    rows = sum(int(part.left.sum()) for part in parts)
    most = min(pool_rows, selector.most_rows or pool_rows)
    # A little more than wanted, then the rest is cut off: a hash does not divide rows evenly.
    share = 1.0 if rows <= most else min(1.0, 1.1 * most / rows + 100 / rows)
    batches = [batch for found in each.map(_Sample(selector, share), grouped(parts)) for batch in found]
    batch = concat([one for one in batches if length(one)] or batches[:1])
    if length(batch) <= most:
        return batch
    order = np.argsort(row_hash(batch["row_id"]), kind="stable")[:most]
    return take(batch, np.sort(order))


class _Sample:
    def __init__(self, selector: Selector, share: float) -> None:
        self.selector = selector
        self.share = share

    def __call__(self, parts: list[tuple[int, Part]]) -> "list[Batch]":
        found = []
        for _, part in parts:
            batch = read_rows(part, self.selector)
            if length(batch) and self.share < 1:
                batch = take(batch, row_hash(batch["row_id"]) / 2.0**64 < self.share)
            found.append(batch)
        return found


class _Named:
    def __init__(self, wanted: set[str]) -> None:
        self.wanted = wanted

    def __call__(self, parts: list[tuple[int, Part]]) -> list[np.ndarray]:
        return [
            np.array([row_id in self.wanted for row_id in part.read([])["row_id"]], dtype=bool)
            for _, part in parts
        ]


__all__ = ["Chosen", "Each", "Here", "Part", "select"]
