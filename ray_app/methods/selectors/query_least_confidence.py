"""Least confidence: the rows whose most probable class is least probable.

    key(x) = 1 - max_y p(y|x)       in [0, 1 - 1/c]

Reference: D. Lewis, W. Gale, "A Sequential Algorithm for Training Text Classifiers", SIGIR 1994; taxonomy by
    C. Schröder, A. Niekler, "A Survey of Active Learning for Text Classification using Deep Neural Networks",
    2020, https://arxiv.org/abs/2008.07267
Cost: O(n c).
"""

import numpy as np

from ray_app.methods.selectors import View
from ray_app.methods.selectors._query import RowQuery, proba_of


class QueryLeastConfidence(RowQuery):
    """Cheap; with many classes it looks at one of them only.

    Args:
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
    """

    name = "query_least_confidence"
    kind = "prediction"
    needs = frozenset({"proba"})

    def key(self, view: View) -> np.ndarray:
        """Return 1 - max p."""
        return 1 - proba_of(view, self.name).max(1)
