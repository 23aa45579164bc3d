"""Core-set query: the rows farthest from everything that has a label.

    repeat: take x* = argmax over the pool of min over labelled and taken c of || x - c ||_2

Without labelled rows the one nearest to the pool's mean goes first.

Reference: O. Sener, S. Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach",
    ICLR 2018, https://arxiv.org/abs/1708.00489
Departure: the greedy part alone, without the mixed-integer program that leaves outliers out.
Cost: O(n d) for each row, labelled or taken, keeping the running least distance.
"""

import numpy as np

from ray_app.methods.selectors import Selection, View
from ray_app.methods.selectors._distance import farthest_first
from ray_app.methods.selectors._query import BatchQuery, nothing


class QueryCoreset(BatchQuery):
    """Diversity, for the first few hundred labels, when no model knows what it does not know.

    Args:
        normalize: Compare directions (unit vectors), not lengths.
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
        sample: The largest pool to look at; of a larger one, so many rows by hash.
    """

    name = "query_coreset"
    kind = "data"
    needs = frozenset({"features"})

    def __init__(
        self,
        *,
        normalize: bool = False,
        budget: float = 100,
        weight: str | None = None,
        sample: int = 100_000,
    ) -> None:
        super().__init__(budget=budget, weight=weight, sample=sample)
        self.normalize = normalize

    def select(self, view: View, budget: float, rng: np.random.Generator) -> Selection:
        """Choose rows, each the farthest from those before it; rng is not drawn from."""
        if not len(view):
            return nothing()
        features = view.need("features", self.name)
        chosen, radius = farthest_first(
            features, view.labelled_features, view.spending(), budget, normalize=self.normalize
        )
        return Selection(chosen, notes={"radius": radius})
