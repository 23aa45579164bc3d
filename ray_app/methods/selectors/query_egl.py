"""Expected gradient length: the rows whose label would move a linear classifier most.

    key(x) = sum_y p(y|x) || grad_W -log p(y|x) || = ||h|| sum_y p_y ||p - e_y||

h: the features, or of length one where they are normalised.

The gradient with respect to a linear softmax layer's weights is the outer product (p - e_y) h.

Reference: B. Settles, M. Craven, S. Ray, "Multiple-Instance Active Learning", NIPS 2007; C. Schröder,
    A. Niekler, "A Survey of Active Learning for Text Classification using Deep Neural Networks", 2020,
    https://arxiv.org/abs/2008.07267
Cost: O(n (c + d)).
"""

import numpy as np

from ray_app.methods.selectors import View
from ray_app.methods.selectors._query import RowQuery, proba_of


class QueryEgl(RowQuery):
    """Asks for labels that change the model; unnormalised features make it ask for long ones.

    Args:
        normalize: Count every feature vector as of length one.
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
    """

    name = "query_egl"
    kind = "model"
    needs = frozenset({"proba", "features"})

    def __init__(self, *, normalize: bool = False, budget: float = 100, weight: str | None = None) -> None:
        super().__init__(budget=budget, weight=weight)
        self.normalize = normalize

    def key(self, view: View) -> np.ndarray:
        """Return the expected length."""
        proba = proba_of(view, self.name)
        features = np.asarray(view.need("features", self.name), dtype=np.float64)
        # ||p - e_y||^2 = ||p||^2 - 2 p_y + 1
        squares = np.square(proba).sum(1, keepdims=True) - 2 * proba + 1
        expected = (proba * np.sqrt(np.maximum(squares, 0))).sum(1)
        return expected if self.normalize else expected * np.linalg.norm(features, axis=1)
