"""Threshold: every row whose score lies within bounds.

    at_least <= score <= at_most

Bounds are included; a row whose score is NaN lies within none.

Cost: O(n), one pass.
"""

import numpy as np

from ray_app.methods.selectors import RowSelector, View


class Threshold(RowSelector):
    """Where the scale of a score is known, so that no pool need be looked at first.

    Args:
        by: The column with the scores.
        at_least: Lower bound; None: none.
        at_most: Upper bound; None: none.
    """

    needs = frozenset({"score"})

    def __init__(self, *, by: str, at_least: float | None = None, at_most: float | None = None) -> None:
        if at_least is None and at_most is None:
            raise ValueError("threshold: no bound was given; give at_least, at_most or both")
        if at_least is not None and at_most is not None and not at_least <= at_most:
            raise ValueError(f"threshold: at_least={at_least} is above at_most={at_most}; no row can be both")
        self.by = by
        self.at_least = at_least
        self.at_most = at_most

    def budget(self, rows: int, total_cost: float) -> float:
        """Return the cost of everything: bounds alone decide."""
        return total_cost

    def key(self, view: View) -> np.ndarray:
        """Return the score."""
        return np.asarray(view.need("score", "threshold"), dtype=np.float64)

    def admits(self, key: np.ndarray) -> np.ndarray:
        """Return which scores lie within the bounds."""
        inside = np.isfinite(key)
        if self.at_least is not None:
            inside &= key >= self.at_least
        if self.at_most is not None:
            inside &= key <= self.at_most
        return inside
