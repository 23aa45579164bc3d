"""How far a budget reaches among rows that are judged one by one: digit by digit, in a few passes over them.

A row's place in the order is 128 bits: its key's, the best first, then those of a hash of its name. Every
pass adds up what rows near the cut-off cost by the next 16 of them; few rows are sorted instead.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from ray_app.data.selected import Each, Part, grouped, read_rows, view_of
from ray_app.methods.selectors import RowSelector, View, affordable, row_hash

# So many rows at the cut-off are sorted; of more, the next digit is looked at.
_SORTED = 100_000
_DIGITS, _BITS = 8, 16
Group = Hashable


@dataclass(frozen=True)
class _Cut:
    """How far a group's budget is known to reach: rows before `start` are taken, rows from `stop` on not."""

    start: int
    stop: int
    spend: float
    """What is left for rows between them."""


def by_row(parts: list[Part], selector: RowSelector, each: Each) -> list[Part]:
    """Return the parts with the rows that a selector takes; see its class for which they are."""
    groups = grouped(parts)
    rows, cost, totals = 0, 0.0, dict[Group, float]()
    for n, spent, of_group in each.map(_Totals(selector), groups):
        rows, cost = rows + n, cost + spent
        for group, value in of_group.items():
            totals[group] = totals.get(group, 0.0) + value
    shares = selector.shares(totals, selector.budget(rows, cost))
    everything = 1 << (_DIGITS * _BITS)
    cuts = {
        group: _Cut(everything, everything, 0.0)
        if shares[group] >= total
        else _Cut(0, everything, float(shares[group]))
        for group, total in totals.items()
    }
    for digit in range(_DIGITS):
        if all(cut.start == cut.stop for cut in cuts.values()):
            break
        cuts = _narrowed(cuts, groups, selector, each, digit)
    ends = {group: cut.start for group, cut in cuts.items()}
    chosen = each.map(_Taken(selector, ends), groups)
    return [
        part.keeping(mask)
        for group, masks in zip(groups, chosen, strict=True)
        for (_, part), mask in zip(group, masks, strict=True)
    ]


def _narrowed(
    cuts: dict[Group, _Cut],
    groups: list[list[tuple[int, Part]]],
    selector: RowSelector,
    each: Each,
    digit: int,
) -> dict[Group, _Cut]:
    """Look at one more digit of the places of rows near each cut-off."""
    histograms: dict[Group, dict[int, tuple[int, float]]] = {}
    for found in each.map(_Histogram(selector, cuts, digit), groups):
        for group, counted in found.items():
            into = histograms.setdefault(group, {})
            for value, (count, cost) in counted.items():
                old = into.get(value, (0, 0.0))
                into[value] = (old[0] + count, old[1] + cost)
    width = 1 << (_BITS * (_DIGITS - digit - 1))
    narrow: dict[Group, tuple[_Cut, int]] = {}
    for group, counted in histograms.items():
        cut, values = cuts[group], sorted(counted)
        within = affordable(np.array([counted[value][1] for value in values]), cut.spend)
        spend = cut.spend - sum(counted[value][1] for value in values[:within])
        if within == len(values):
            narrow[group] = (_Cut(cut.stop, cut.stop, 0.0), 0)
            continue
        start = cut.start + values[within] * width
        narrow[group] = (_Cut(start, start + width, spend), counted[values[within]][0])
    # Where no row is left between its bounds, a cut-off is known.
    cuts = {
        group: narrow[group][0] if group in narrow else _Cut(cut.start, cut.start, 0.0)
        for group, cut in cuts.items()
    }
    few = {group: cuts[group] for group, (cut, count) in narrow.items() if 0 < count <= _SORTED}
    return {**cuts, **_sorted_out(few, groups, selector, each)}


def _sorted_out(
    cuts: dict[Group, _Cut], groups: list[list[tuple[int, Part]]], selector: RowSelector, each: Each
) -> dict[Group, _Cut]:
    """Sort the few rows that are left near each cut-off."""
    if not cuts:
        return {}
    near: dict[Group, list[tuple[int, float]]] = {group: [] for group in cuts}
    for found in each.map(_Near(selector, cuts), groups):
        for group, rows in found.items():
            near[group] += rows
    ended = {}
    for group, rows in near.items():
        rows.sort()
        within = affordable(np.array([cost for _, cost in rows]), cuts[group].spend)
        end = rows[within][0] if within < len(rows) else cuts[group].stop
        ended[group] = _Cut(end, end, 0.0)
    return ended


class _Keyed:
    """What all passes over the rows share: each row's place in the order, its cost and its group."""

    def __init__(self, selector: RowSelector) -> None:
        self.selector = selector

    def _rows(self, part: Part) -> tuple[View, np.ndarray, np.ndarray, list[int], list[Group]]:
        """View, admitted [n], costs [n], places and groups: of admitted rows, in their order."""
        view = view_of(read_rows(part, self.selector), self.selector)
        if not len(view):
            return view, np.zeros(0, dtype=bool), np.zeros(0), [], []
        key = np.asarray(self.selector.key(view), dtype=np.float64)
        admitted = self.selector.admits(key)
        groups = self.selector.group(view)
        high = _descending(key[admitted])
        low = row_hash(cast(np.ndarray, view.row_ids)[admitted])
        places = [(a << 64) | b for a, b in zip(high.tolist(), low.tolist(), strict=True)]
        named: list[Group] = groups[admitted].tolist() if groups is not None else [None] * len(places)
        return view, admitted, view.spending()[admitted], places, named


def _descending(key: np.ndarray) -> np.ndarray:
    """uint64 whose ascending order is the descending order of float64."""
    # Adding zero turns -0.0 into 0.0, which compares equal and has other bits.
    bits = (key + 0.0).view(np.uint64)
    negative = bits >> np.uint64(63) == 1
    ascending = np.where(negative, ~bits, bits | np.uint64(1 << 63))
    return ~ascending


class _Totals(_Keyed):
    def __call__(self, parts: list[tuple[int, Part]]) -> tuple[int, float, dict[Group, float]]:
        rows, cost, totals = 0, 0.0, dict[Group, float]()
        for _, part in parts:
            view, _, costs, _, groups = self._rows(part)
            rows, cost = rows + len(view), cost + float(view.spending().sum()) if len(view) else cost
            for group, value in zip(groups, costs.tolist(), strict=True):
                totals[group] = totals.get(group, 0.0) + value
        return rows, cost, totals


class _Histogram(_Keyed):
    def __init__(self, selector: RowSelector, cuts: Mapping[Group, _Cut], digit: int) -> None:
        super().__init__(selector)
        self.cuts = cuts
        self.shift = _BITS * (_DIGITS - digit - 1)

    def __call__(self, parts: list[tuple[int, Part]]) -> dict[Group, dict[int, tuple[int, float]]]:
        found: dict[Group, dict[int, tuple[int, float]]] = {}
        for _, part in parts:
            _, _, costs, places, groups = self._rows(part)
            for place, cost, group in zip(places, costs.tolist(), groups, strict=True):
                cut = self.cuts[group]
                if cut.start <= place < cut.stop:
                    into = found.setdefault(group, {})
                    value = (place - cut.start) >> self.shift
                    old = into.get(value, (0, 0.0))
                    into[value] = (old[0] + 1, old[1] + cost)
        return found


class _Near(_Keyed):
    def __init__(self, selector: RowSelector, cuts: Mapping[Group, _Cut]) -> None:
        super().__init__(selector)
        self.cuts = cuts

    def __call__(self, parts: list[tuple[int, Part]]) -> dict[Group, list[tuple[int, float]]]:
        found: dict[Group, list[tuple[int, float]]] = {group: [] for group in self.cuts}
        for _, part in parts:
            _, _, costs, places, groups = self._rows(part)
            for place, cost, group in zip(places, costs.tolist(), groups, strict=True):
                cut = self.cuts.get(group)
                if cut is not None and cut.start <= place < cut.stop:
                    found[group].append((place, cost))
        return found


class _Taken(_Keyed):
    def __init__(self, selector: RowSelector, ends: Mapping[Group, int]) -> None:
        super().__init__(selector)
        self.ends = ends

    def __call__(self, parts: list[tuple[int, Part]]) -> list[np.ndarray]:
        masks = []
        for _, part in parts:
            view, admitted, _, places, groups = self._rows(part)
            mask = np.zeros(len(view), dtype=bool)
            mask[admitted] = [place < self.ends[group] for place, group in zip(places, groups, strict=True)]
            masks.append(mask)
        return masks


__all__ = ["by_row"]
