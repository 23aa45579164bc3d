"""K-center: rows such that no row of the pool is far from all chosen ones.

    repeat: take x* = argmax over x of min over chosen c of || x - c ||_2

Greedy choice from the farthest on: the largest distance that remains is at most twice the least possible one
for that many rows. Labelled rows count as chosen from the start; without any, the row nearest to the pool's
mean goes first.

Reference: T. Gonzalez, "Clustering to minimize the maximum intercluster distance", TCS 1985; O. Sener,
    S. Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018,
    https://arxiv.org/abs/1708.00489
Cost: O(n d) for each chosen row, keeping the running least distance; O(n d) memory.
"""

import numpy as np

from ray_app.methods.selectors import Selection, Selector, View
from ray_app.methods.selectors._budget import Budget
from ray_app.methods.selectors._distance import farthest_first


class KCenter(Selector):
    """A few rows that stand for all of them, rare ones included.

    Args:
        fraction: What may be taken of the pool, in 0..1.
        budget: Rows that may be taken at most; in place of `fraction`.
        normalize: Compare directions (unit vectors), not lengths.
        sample: The largest pool to look at; of a larger one, so many rows by hash.
    """

    needs = frozenset({"features"})

    def __init__(
        self,
        *,
        fraction: float | None = None,
        budget: float | None = None,
        normalize: bool = False,
        sample: int = 100_000,
    ) -> None:
        if sample < 1:
            raise ValueError(f"k_center: sample must be >= 1 rows, got {sample!r}; try 100000")
        self.normalize = normalize
        self.most_rows = sample
        self._budget = Budget("k_center", fraction, budget)

    def budget(self, rows: int, total_cost: float) -> float:
        """Return the fraction of the total cost, or the budget."""
        return self._budget.of(total_cost)

    def select(self, view: View, budget: float, rng: np.random.Generator) -> Selection:
        """Choose rows, each the farthest from those before it; rng is not drawn from."""
        if not len(view):
            return Selection(np.zeros(0, dtype=np.int64))
        features = view.need("features", "k_center")
        chosen, radius = farthest_first(
            features, view.labelled_features, view.spending(), budget, normalize=self.normalize
        )
        return Selection(chosen, notes={"radius": radius})
