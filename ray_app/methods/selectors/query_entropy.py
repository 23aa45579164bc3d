"""Entropy: the rows whose class is least certain, all classes considered.

    key(x) = -sum_y p(y|x) log p(y|x)       in [0, log c], nats

Reference: C. Schröder, A. Niekler, "A Survey of Active Learning for Text Classification using Deep Neural
    Networks", 2020, https://arxiv.org/abs/2008.07267
Cost: O(n c).
"""

import numpy as np

from ray_app.methods.selectors import View
from ray_app.methods.selectors._query import RowQuery, entropy, proba_of


class QueryEntropy(RowQuery):
    """Where the whole distribution matters; with many classes it prefers hopeless rows.

    Args:
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
    """

    name = "query_entropy"
    kind = "prediction"
    needs = frozenset({"proba"})

    def key(self, view: View) -> np.ndarray:
        """Return the entropy in nats."""
        return entropy(proba_of(view, self.name))
