"""Duplicates among any number of rows: a group-by of those that share a key, then the components."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from ray_app.data.arrow import length
from ray_app.data.selected import PARTS_AT_ONCE, Each, Part, grouped, read_rows, view_of
from ray_app.methods.selectors import DuplicateSelector, row_hash

PARTITIONS = 16
"""Pieces that a group-by is done in."""
_ROW_BITS = 32


@dataclass(frozen=True)
class _Entries:
    """Rows under their keys, on their way to where equal keys meet."""

    band: np.ndarray
    key: np.ndarray
    row: np.ndarray
    """int64: the part's number and the row's in it."""
    signature: np.ndarray | None = None
    score: np.ndarray | None = None
    tie: np.ndarray | None = None

    def __getitem__(self, chosen: np.ndarray) -> "_Entries":
        there = {name: value for name in _ENTRY if (value := getattr(self, name)) is not None}
        return _Entries(**{name: value[chosen] for name, value in there.items()})


_ENTRY = ("band", "key", "row", "signature", "score", "tie")


def without_duplicates(parts: list[Part], selector: DuplicateSelector, each: Each) -> list[Part]:
    """Return the parts without rows that have a better duplicate; see the selector's class."""
    groups = grouped(parts)
    # First the keys alone: most rows share none, and their signatures, which are large, stay where they are.
    meeting: dict[int, set[int]] = {}
    for rows in each.shuffle(_Keys(selector), groups, _meeting):
        for row in rows.tolist():
            meeting.setdefault(row >> _ROW_BITS, set()).add(row & ((1 << _ROW_BITS) - 1))
    some = [
        (number, parts[number].keeping(np.isin(np.arange(int(parts[number].left.sum())), rows)), rows)
        for number, found in sorted(meeting.items())
        for rows in [np.array(sorted(found), dtype=np.int64)]
    ]
    batches = [some[start : start + PARTS_AT_ONCE] for start in range(0, len(some), PARTS_AT_ONCE)]
    edges = list(each.shuffle(_Signed(selector), batches, _Compare(selector)))
    dropped = _dropped(edges)
    result = list(parts)
    for number, lost in dropped.items():
        kept = np.ones(int(parts[number].left.sum()), dtype=bool)
        kept[lost] = False
        result[number] = parts[number].keeping(kept)
    return result


class _Keys:
    def __init__(self, selector: DuplicateSelector) -> None:
        self.selector = selector

    def __call__(self, parts: list[tuple[int, Part]]) -> list[_Entries]:
        found = []
        for number, part in parts:
            batch = read_rows(part, self.selector)
            if length(batch):
                keys = self.selector.keys(self.selector.signature(view_of(batch, self.selector)))
                found.append(_entries(keys, (number << _ROW_BITS) + np.arange(len(keys))))
        return _partitioned(found)


class _Signed:
    def __init__(self, selector: DuplicateSelector) -> None:
        self.selector = selector

    def __call__(self, parts: list[tuple[int, Part, np.ndarray]]) -> list[_Entries]:
        found = []
        for number, part, rows in parts:
            view = view_of(read_rows(part, self.selector), self.selector)
            signature = self.selector.signature(view)
            keys = self.selector.keys(signature)
            wanted = np.zeros(len(rows)) if view.score is None else np.nan_to_num(view.score, nan=-np.inf)
            tie = row_hash(cast(np.ndarray, view.row_ids))
            found.append(_entries(keys, (number << _ROW_BITS) + rows, signature, wanted, tie))
        return _partitioned(found)


class _Compare:
    def __init__(self, selector: DuplicateSelector) -> None:
        self.selector = selector

    def __call__(self, pieces: "list[_Entries]") -> "_Entries":
        """Return, for each row that has duplicates here, a component's number under `key`."""
        entries = _joined(pieces)
        if not len(entries.row) or entries.signature is None:
            return _entries(np.zeros((0, 1), dtype=np.uint64), np.zeros(0, dtype=np.int64))
        signature = entries.signature
        pairs = [group[self.selector.alike(signature[group])] for group in _same(entries)]
        ends = np.concatenate([np.zeros((0, 2), dtype=np.int64), *pairs])
        component = _components(entries.row[ends])
        rows = np.array(list(component), dtype=np.int64)
        first = {row: place for place, row in enumerate(entries.row.tolist())}
        at = np.array([first[row] for row in rows.tolist()], dtype=np.int64)
        number = np.array([component[row] for row in rows.tolist()], dtype=np.uint64)
        chosen = entries[at]
        return replace(chosen, key=number, signature=None)


def _entries(
    keys: np.ndarray,
    rows: np.ndarray,
    signature: np.ndarray | None = None,
    score: np.ndarray | None = None,
    tie: np.ndarray | None = None,
) -> _Entries:
    n, bands = keys.shape
    at = np.repeat(np.arange(n), bands)
    more = [value[at] if value is not None else None for value in (signature, score, tie)]
    return _Entries(np.tile(np.arange(bands), n), keys.reshape(-1), rows[at].astype(np.int64), *more)


def _partitioned(found: list[_Entries]) -> list[_Entries]:
    entries = _joined(found)
    # The low bits of a key may be all alike (a cluster's number); its band must count too.
    mixed = (entries.key ^ (entries.key >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    partition = ((mixed >> np.uint64(40)) + entries.band.astype(np.uint64)) % np.uint64(PARTITIONS)
    return [entries[np.flatnonzero(partition == number)] for number in range(PARTITIONS)]


def _joined(pieces: list[_Entries]) -> _Entries:
    full = [piece for piece in pieces if len(piece.row)]
    if not full:
        return _entries(np.zeros((0, 1), dtype=np.uint64), np.zeros(0, dtype=np.int64))
    columns = {name: [getattr(piece, name) for piece in full] for name in _ENTRY}
    return _Entries(
        **{name: np.concatenate(column) for name, column in columns.items() if column[0] is not None}
    )


def _same(entries: _Entries) -> Iterator[np.ndarray]:
    """Positions of rows that share a key, two or more at a time."""
    order = np.lexsort((entries.row, entries.key, entries.band))
    band, key = entries.band[order], entries.key[order]
    starts = np.flatnonzero((np.diff(band) != 0) | (key[1:] != key[:-1])) + 1
    yield from (group for group in np.split(order, starts) if len(group) > 1)


def _meeting(pieces: list[_Entries]) -> np.ndarray:
    entries = _joined(pieces)
    groups = [entries.row[group] for group in _same(entries)]
    return np.unique(np.concatenate(groups)) if groups else np.zeros(0, dtype=np.int64)


def _components(pairs: np.ndarray) -> dict[int, int]:
    """Row → the number of its component: the smallest row in it."""
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while (up := parent.setdefault(row, row)) != row:
            parent[row] = parent[up]
            row = up
        return row

    for a, b in pairs.tolist():
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {row: root(row) for row in list(parent)}


def _dropped(found: list[_Entries]) -> dict[int, np.ndarray]:
    """Part's number → rows of it that are not the best of their component."""
    entries = _joined(found)
    if not len(entries.row):
        return {}
    # A partition knows only the pairs that met there; a row in two of them joins their components.
    component = _components(np.stack([entries.row, entries.key.astype(np.int64)], axis=1))
    score, tie = cast(np.ndarray, entries.score), cast(np.ndarray, entries.tie)
    best: dict[int, tuple[float, int, int]] = {}
    for row, wanted, hashed in zip(entries.row.tolist(), score.tolist(), tie.tolist(), strict=True):
        mine = (-wanted, hashed, row)
        best[component[row]] = min(best.get(component[row], mine), mine)
    lost: dict[int, list[int]] = {}
    for row in {*entries.row.tolist()} - {row for _, _, row in best.values()}:
        lost.setdefault(row >> _ROW_BITS, []).append(row & ((1 << _ROW_BITS) - 1))
    return {number: np.array(rows, dtype=np.int64) for number, rows in lost.items()}


__all__ = ["PARTITIONS", "without_duplicates"]
