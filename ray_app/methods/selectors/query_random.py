"""Random query: rows by chance, the baseline of every query strategy.

    key = a hash of `row_id` and the seed, in [0, 1)

The same rows on every machine and in every order of the pool.

Cost: O(n).
"""

import numpy as np

from ray_app.methods.selectors import View, row_hash
from ray_app.methods.selectors._query import RowQuery


class QueryRandom(RowQuery):
    """What any other strategy has to beat, at the same number of labels.

    Args:
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
        seed: Of the chance.
    """

    name = "query_random"
    kind = "data"

    def __init__(self, *, budget: float = 100, weight: str | None = None, seed: int = 0) -> None:
        super().__init__(budget=budget, weight=weight)
        self.seed = seed

    def key(self, view: View) -> np.ndarray:
        """Return a number in 0..1 by chance."""
        return row_hash(view.need("row_ids", self.name), self.seed).astype(np.float64) / 2.0**64
