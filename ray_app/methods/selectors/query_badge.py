"""BADGE: rows whose gradients are long and point different ways.

    g(x) = (p(.|x) - e_y') h,   y' = argmax p(.|x),   h = f(x)
    the first row: the longest g; each next one by chance, P proportional to min over taken c of ||g - g_c||^2

This is k-means++ seeding in the space of a linear softmax layer's gradients. They are never written out:
<g_a, g_b> = <p_a - e_a, p_b - e_b> <h_a, h_b>.

Reference: J. Ash, C. Zhang, A. Krishnamurthy, J. Langford, A. Agarwal, "Deep Batch Active Learning by
    Diverse, Uncertain Gradient Lower Bounds", ICLR 2020, https://arxiv.org/abs/1906.03671
Cost: O(n (c + d)) for each row.
"""

import numpy as np

from ray_app.methods.selectors import Selection, View
from ray_app.methods.selectors._query import BatchQuery, nothing, proba_of


class QueryBadge(BatchQuery):
    """Uncertainty and diversity at once, without an option to weigh them.

    Args:
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
        sample: The largest pool to look at; of a larger one, so many rows by hash.
    """

    name = "query_badge"
    kind = "model"
    needs = frozenset({"proba", "features"})

    def select(self, view: View, budget: float, rng: np.random.Generator) -> Selection:
        """Choose rows by k-means++ seeding, drawn from rng."""
        if not len(view):
            return nothing()
        residual = proba_of(view, self.name).copy()
        residual[np.arange(len(residual)), residual.argmax(1)] -= 1
        h = np.asarray(view.need("features", self.name), dtype=np.float64)
        squares = np.square(residual).sum(1) * np.square(h).sum(1)
        costs, left = view.spending(), budget + 1e-9 * max(1.0, abs(budget))
        nearest = np.full(len(h), np.inf)
        free = np.ones(len(h), dtype=bool)
        chosen: list[int] = []
        while free.any():
            row = int(np.where(free, squares, -1.0).argmax()) if not chosen else _drawn(nearest, free, rng)
            if costs[row] > left:
                break
            left -= costs[row]
            chosen.append(row)
            free[row] = False
            gap = squares + squares[row] - 2 * (residual @ residual[row]) * (h @ h[row])
            nearest = np.minimum(nearest, np.maximum(gap, 0))
        return Selection(np.array(chosen, dtype=np.int64))


def _drawn(nearest: np.ndarray, free: np.ndarray, rng: np.random.Generator) -> int:
    """A free row by chance in proportion to its squared distance; any, where all lie on taken ones."""
    weight = np.where(free, nearest, 0.0)
    total = weight.sum()
    return int(rng.choice(len(weight), p=weight / total if total > 0 else free / free.sum()))
