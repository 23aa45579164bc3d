"""Margin: the rows whose two most probable classes are nearest to each other.

    key(x) = -(p(y_1|x) - p(y_2|x))       in [-1, 0]

y_1, y_2: the most probable and the second most probable class.

Reference: T. Scheffer, C. Decomain, S. Wrobel, "Active Hidden Markov Models for Information Extraction",
    IDA 2001; taxonomy by C. Schröder, A. Niekler, "A Survey of Active Learning for Text Classification using
    Deep Neural Networks", 2020, https://arxiv.org/abs/2008.07267
Cost: O(n c).
"""

import numpy as np

from ray_app.methods.selectors import View
from ray_app.methods.selectors._query import RowQuery, proba_of


class QueryMargin(RowQuery):
    """The strategy to begin with: rows near a border between two classes, whatever the others do.

    Args:
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
    """

    name = "query_margin"
    kind = "prediction"
    needs = frozenset({"proba"})

    def key(self, view: View) -> np.ndarray:
        """Return the negative difference of the two largest probabilities; of one class alone, 0."""
        proba = proba_of(view, self.name)
        if proba.shape[1] < 2:
            return np.zeros(len(proba))
        two = np.partition(proba, -2, axis=1)[:, -2:]
        return two[:, 0] - two[:, 1]
