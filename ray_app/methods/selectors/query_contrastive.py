"""Contrastive query: rows that a model judges otherwise than labelled rows beside them.

    key(x) = 1/k sum over the k nearest labelled rows l of KL( p(.|l) || p(.|x) ),   p(.|l) = label of l
           = 1/k sum over them of -log p(y_l|x)                                      in [0, inf), nats

Reference: K. Margatina, G. Vernikos, L. Barrault, N. Aletras, "Active Learning by Acquiring Contrastive
    Examples", EMNLP 2021, https://arxiv.org/abs/2109.03764
Departure: a labelled row's distribution is its label, not what the model makes of it; both nearly agree once
    the model fits its labels.
Cost: O(n m d) for m labelled rows.
"""

import numpy as np

from ray_app.methods.selectors import View
from ray_app.methods.selectors._query import RowQuery, proba_of

_LEAST_PROBABILITY = 1e-12


class QueryContrastive(RowQuery):
    """Finds the borders between classes where labelled rows are near.

    Args:
        k: Labelled neighbours of a row.
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
    """

    name = "query_contrastive"
    kind = "prediction"
    needs = frozenset({"proba", "features", "labelled_features", "labelled_labels"})

    def __init__(self, *, k: int = 10, budget: float = 100, weight: str | None = None) -> None:
        super().__init__(budget=budget, weight=weight)
        if k < 1:
            raise ValueError(f"query_contrastive: k must be >= 1, got {k!r}; try 10")
        self.k = k

    def key(self, view: View) -> np.ndarray:
        """Return the mean divergence in nats.

        Raises:
            ValueError: There are no labelled rows.
        """
        proba = proba_of(view, self.name)
        x = np.asarray(view.need("features", self.name), dtype=np.float64)
        known = np.asarray(view.need("labelled_features", self.name), dtype=np.float64)
        labels = np.asarray(view.need("labelled_labels", self.name))
        if not len(known):
            raise ValueError("query_contrastive: needs at least one labelled row; begin with query_random")
        # Squares of large numbers lose the digits in which near rows differ.
        x, known = x - known.mean(0), known - known.mean(0)
        distance = np.square(known).sum(1) - 2 * x @ known.T
        nearest = np.argsort(distance, axis=1, kind="stable")[:, : self.k]
        believed = np.take_along_axis(proba, labels[nearest], axis=1)
        return -np.log(np.maximum(believed, _LEAST_PROBABILITY)).mean(1)
