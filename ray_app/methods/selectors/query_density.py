"""Density: rows that are like many others of the pool and, where asked for, uncertain.

    key(x) = (1 + <z, m>) / 2 * u(x)^beta,   m = mean of z over the pool,   z = f(x) / ||f(x)||

<z, m> is the mean cosine to all rows of the pool; u, the entropy of p(.|x) over log c, in [0, 1].

Reference: B. Settles, M. Craven, "An Analysis of Active Learning Strategies for Sequence Labeling Tasks",
    EMNLP 2008 (information density).
Departure: cosines are brought to 0..1, so that uncertainty counts for rows unlike the others too; the mean
    comes from a sample of the pool where the pool is large.
Cost: fit O(n d), once; O(n (c + d)).
"""

from collections.abc import Mapping
from typing import Self

import numpy as np

from ray_app.errors import NotFittedError
from ray_app.methods.selectors import View
from ray_app.methods.selectors._distance import unit
from ray_app.methods.selectors._query import RowQuery, entropy, proba_of


class QueryDensity(RowQuery):
    """Keeps away from outliers, which uncertainty alone asks about.

    Args:
        beta: Weight of uncertainty; 0: density alone, which needs no model.
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
    """

    name = "query_density"
    kind = "data"
    needs = frozenset({"features"})

    def __init__(self, *, beta: float = 0.0, budget: float = 100, weight: str | None = None) -> None:
        super().__init__(budget=budget, weight=weight)
        if not beta >= 0:
            raise ValueError(f"query_density: beta must be >= 0, got {beta!r}; try 1.0")
        self.beta = beta
        self.mean: np.ndarray | None = None
        """float32 [d]: of the pool's unit vectors."""
        if beta:
            self.needs = frozenset({"features", "proba"})

    def fit(self, view: View, rng: np.random.Generator) -> Self:
        """Forget, then learn where the pool, or a sample of it, lies; rng is not drawn from.

        Raises:
            ValueError: The sample is empty.
        """
        features = unit(view.need("features", self.name))
        if not len(features):
            raise ValueError("query_density: no rows to learn from; is the sample empty?")
        self.mean = features.mean(0, dtype=np.float64).astype(np.float32)
        return self

    def state(self) -> dict[str, np.ndarray]:
        """Return the mean.

        Raises:
            NotFittedError: There is none yet.
        """
        return {"mean": self._fitted()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> Self:
        """Take the mean of another."""
        self.mean = np.asarray(state["mean"], dtype=np.float32)
        return self

    def key(self, view: View) -> np.ndarray:
        """Return density times uncertainty.

        Raises:
            NotFittedError: There is no mean yet.
        """
        features = unit(view.need("features", self.name)).astype(np.float64)
        density = (1 + features @ self._fitted().astype(np.float64)) / 2
        if not self.beta:
            return density
        proba = proba_of(view, self.name)
        return density * (entropy(proba) / np.log(max(proba.shape[1], 2))) ** self.beta

    def _fitted(self) -> np.ndarray:
        if self.mean is None:
            raise NotFittedError("query_density: no mean yet; call fit() with a sample of the pool")
        return self.mean
