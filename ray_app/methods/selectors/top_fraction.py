"""Top fraction: the rows with the highest (or lowest) scores, up to a share of the pool.

    take rows by descending score while their summed cost <= fraction * cost of all rows

Cost of a row: 1, its characters, or a column's number. A row whose score is NaN is never taken.

Cost: O(n log n); an engine needs one pass for the cut-off and one to take.
"""

from typing import Literal

import numpy as np

from ray_app.methods.selectors import RowSelector, View
from ray_app.methods.selectors._budget import Budget


class TopFraction(RowSelector):
    """The usual filter of a corpus by quality.

    Args:
        by: The column with the scores.
        fraction: What may be taken of the cost of the whole pool, in 0..1.
        budget: What may be taken at most, in rows or the unit of `weight`; in place of `fraction`.
        order: `descending` takes the highest scores first, `ascending` the lowest.
        weight: What a row costs: None, one; `chars`, the characters of its text; or a column of numbers.
    """

    needs = frozenset({"score"})

    def __init__(
        self,
        *,
        by: str,
        fraction: float | None = None,
        budget: float | None = None,
        order: Literal["descending", "ascending"] = "descending",
        weight: str | None = None,
    ) -> None:
        if order not in ("descending", "ascending"):
            raise ValueError(f"top_fraction: order must be descending or ascending, got {order!r}")
        self.by = by
        self.weight = weight
        self.order = order
        self._budget = Budget("top_fraction", fraction, budget)

    def budget(self, rows: int, total_cost: float) -> float:
        """Return the fraction of the total cost, or the budget."""
        return self._budget.of(total_cost)

    def key(self, view: View) -> np.ndarray:
        """Return the score, turned round where the lowest are wanted."""
        score = np.asarray(view.need("score", "top_fraction"), dtype=np.float64)
        return score if self.order == "descending" else -score
