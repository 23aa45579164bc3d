"""Semantic duplicates: of rows whose embeddings point the same way, one stays.

    z = f(x) / ||f(x)||
    duplicates: <z_a, z_b> >= threshold, for rows whose nearest of k centroids is the same

Centroids come from k-means on a sample of the pool. A pair on both sides of a border between clusters is
missed; fewer clusters miss fewer and compare more.

Reference: A. Abbas, K. Tirumala, D. Simig, S. Ganguli, A. Morcos, "SemDeDup: Data-efficient learning at
    web-scale through semantic deduplication", 2023, https://arxiv.org/abs/2303.09540
Departure: the paper keeps the row farthest from its centroid; here the highest score stays, or any one.
Cost: fit O(sample k d); then O(n k d) for the keys and O(g^2 d) in each cluster of g rows.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np

from ray_app.errors import NotFittedError
from ray_app.methods.selectors import DuplicateSelector, View
from ray_app.methods.selectors._distance import unit

# Rows of a cluster that are compared with all others at once.
_ROWS = 1024


class SemanticDuplicates(DuplicateSelector):
    """Finds what says or shows the same in other words or pixels.

    Args:
        threshold: Least cosine between duplicates.
        clusters: Centroids: such that a cluster has some thousands of rows.
        by: The column with the scores, of which the highest of duplicates stays; None: any one.
    """

    needs = frozenset({"features"})

    def __init__(self, *, threshold: float = 0.95, clusters: int = 100, by: str | None = None) -> None:
        if not -1 <= threshold <= 1:
            raise ValueError(f"semantic_duplicates: threshold must be a cosine in -1..1, got {threshold!r}")
        if clusters < 1:
            raise ValueError(f"semantic_duplicates: clusters must be >= 1, got {clusters!r}; try 100")
        self.threshold = threshold
        self.clusters = clusters
        self.by = by
        self.centroids: np.ndarray | None = None
        """float32 [k, d], unit vectors."""
        if by:
            self.needs = frozenset({"features", "score"})

    def fit(self, view: View, rng: np.random.Generator) -> Self:
        """Forget, then place the centroids on a sample of the pool.

        Raises:
            ValueError: The sample is empty.
        """
        # A heavy import, which only this step needs.
        from sklearn.cluster import KMeans

        rows = self.signature(view)
        if not len(rows):
            raise ValueError("semantic_duplicates: no rows to place centroids on; is the sample empty?")
        different = np.unique(rows, axis=0)
        seed = int(rng.integers(2**31))
        means = KMeans(min(self.clusters, len(different)), n_init=1, random_state=seed).fit(rows)
        self.centroids = unit(means.cluster_centers_)
        return self

    def state(self) -> dict[str, np.ndarray]:
        """Return the centroids.

        Raises:
            NotFittedError: There are none yet.
        """
        return {"centroids": self._fitted()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> Self:
        """Take the centroids of another."""
        self.centroids = np.asarray(state["centroids"], dtype=np.float32)
        return self

    def signature(self, view: View) -> np.ndarray:
        """Return float32 [n, d], unit vectors."""
        return unit(view.need("features", "semantic_duplicates"))

    def keys(self, signature: np.ndarray) -> np.ndarray:
        """Return uint64 [n, 1]: the nearest centroid.

        Raises:
            NotFittedError: There are no centroids yet.
        """
        return (signature @ self._fitted().T).argmax(1).astype(np.uint64)[:, None]

    def alike(self, signature: np.ndarray) -> np.ndarray:
        """Return pairs whose cosine reaches the threshold."""
        found = [np.zeros((0, 2), dtype=np.int64)]
        for start in range(0, len(signature), _ROWS):
            cosine = signature[start : start + _ROWS] @ signature[start:].T
            # Products of equal unit vectors may fall short of one in their last digits.
            a, b = np.nonzero(cosine >= self.threshold - 1e-6)
            later = b > a
            found.append(np.stack([a[later], b[later]], axis=1) + start)
        return np.concatenate(found).astype(np.int64)

    def _fitted(self) -> np.ndarray:
        if self.centroids is None:
            raise NotFittedError(
                "semantic_duplicates: no centroids yet; call fit() with a sample of the pool"
            )
        return self.centroids
