"""Stratified: a share of the budget for each value of a column, so that none drowns the others.

    proportional: share_g = budget * cost_g / sum cost
    equal:        share_g = min(cost_g, level), with the level at which the shares sum to the budget

What a small stratum cannot use goes to the others. Where all costs are whole, so are the shares, by largest
remainders. Within a stratum rows are taken by score or, without one, by a hash of `row_id`, which is a
random draw that is the same on every machine.

Cost: O(n log n); an engine needs one pass for the strata's costs and cut-offs, and one to take.
"""

from collections.abc import Hashable, Mapping
from typing import Literal

import numpy as np

from ray_app.methods.selectors import RowSelector, View, row_hash
from ray_app.methods.selectors._budget import Budget, whole


class Stratified(RowSelector):
    """Keeps rare classes, domains or languages in a sample.

    Args:
        column: The column whose values are the strata; `label`, say.
        fraction: What may be taken of the cost of the whole pool, in 0..1.
        budget: What may be taken at most, in rows or the unit of `weight`; in place of `fraction`.
        shares: `equal` strata as far as they reach, or `proportional` to what they cost.
        by: The column with the scores; None: by chance.
        order: `descending` takes the highest scores first, `ascending` the lowest.
        weight: What a row costs: None, one; `chars`, the characters of its text; or a column of numbers.
        seed: Of the chance.
    """

    def __init__(
        self,
        *,
        column: str = "label",
        fraction: float | None = None,
        budget: float | None = None,
        shares: Literal["equal", "proportional"] = "proportional",
        by: str | None = None,
        order: Literal["descending", "ascending"] = "descending",
        weight: str | None = None,
        seed: int = 0,
    ) -> None:
        if shares not in ("equal", "proportional"):
            raise ValueError(f"stratified: shares must be equal or proportional, got {shares!r}")
        if order not in ("descending", "ascending"):
            raise ValueError(f"stratified: order must be descending or ascending, got {order!r}")
        self.column = column
        self.by = by
        self.weight = weight
        self.order = order
        self.seed = seed
        self.needs = frozenset({"texts"} if by is None else {"texts", "score"})
        self._shares = shares
        self._budget = Budget("stratified", fraction, budget)

    def budget(self, rows: int, total_cost: float) -> float:
        """Return the fraction of the total cost, or the budget."""
        return self._budget.of(total_cost)

    def key(self, view: View) -> np.ndarray:
        """Return the score, or a number in 0..1 by chance."""
        if self.by is None:
            return row_hash(view.need("row_ids", "stratified"), self.seed).astype(np.float64) / 2.0**64
        score = np.asarray(view.need("score", "stratified"), dtype=np.float64)
        return score if self.order == "descending" else -score

    def group(self, view: View) -> np.ndarray:
        """Return the column's values."""
        values = view.need("texts", "stratified")
        strata = np.empty(len(values), dtype=object)
        strata[:] = values.tolist()
        return strata

    def shares(self, costs: Mapping[Hashable, float], budget: float) -> Mapping[Hashable, float]:
        """Return each stratum's share; together they are the budget, or everything where it suffices."""
        names = sorted(costs, key=str)
        total = np.array([costs[name] for name in names], dtype=np.float64)
        if not len(names) or budget >= total.sum():
            return dict(costs)
        exact = total * (budget / total.sum()) if self._shares == "proportional" else _level(total, budget)
        return dict(zip(names, whole(exact, total, budget).tolist(), strict=True))


def _level(total: np.ndarray, budget: float) -> np.ndarray:
    """Fill all strata to one level that the budget reaches; small ones are full below it."""
    order = np.argsort(total, kind="stable")
    filled = np.zeros_like(total)
    left = budget
    for position, group in enumerate(order):
        filled[group] = min(total[group], left / (len(order) - position))
        left -= filled[group]
    return filled
