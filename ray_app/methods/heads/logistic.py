"""Logistic regression on frozen features: a linear probe.

    min_{W, b}  sum_i -log softmax(W z_i + b)_{y_i} + (1 / 2C) ||W||^2,     z = (x - mean) / std

mean, std: of each feature over the training rows (0 and 1 where `standardize` is off). The scaling is folded
into W and b afterwards.

Reference: D. R. Cox, "The Regression Analysis of Binary Sequences", 1958; solved by scikit-learn's L-BFGS.
Cost: fit O(iterations n c d); predict one product, O(n c d).
"""

import numpy as np

from ray_app.methods.heads._fitted import FittedLinear, both_sides


class Logistic(FittedLinear):
    """The default when there are many labels: the best linear boundary, and well calibrated probabilities.

    Args:
        C: Inverse strength of the penalty on standardised features.
        max_iter: Most iterations of the solver.
        standardize: Scale each feature first, so that the penalty treats all alike. Without it features with
            a large spread count more, which takes more rows where they say little.
        num_classes: c, where it is known; None: the largest label seen plus one.
    """

    name = "logistic"

    def __init__(
        self,
        *,
        C: float = 1.0,
        max_iter: int = 1000,
        standardize: bool = True,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes)
        if not C > 0:
            raise ValueError(f"logistic: C must be > 0, got {C!r}; try 1.0")
        if max_iter < 1:
            raise ValueError(f"logistic: max_iter must be >= 1, got {max_iter!r}; try 1000")
        self.C = C
        self.max_iter = max_iter
        self.standardize = standardize

    def _solve(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.linear_model import LogisticRegression

        if not self.standardize:
            model = LogisticRegression(C=self.C, max_iter=self.max_iter).fit(x, y)
            return both_sides(model.coef_, model.intercept_, halve=True)
        mean, std = x.mean(0), x.std(0)
        # A constant feature's computed std may be a rounding error; dividing by that would blow it up.
        std[std <= 1e-12 * np.abs(mean)] = 1.0
        std[std == 0] = 1.0
        model = LogisticRegression(C=self.C, max_iter=self.max_iter).fit((x - mean) / std, y)
        weight, bias = both_sides(model.coef_, model.intercept_, halve=True)
        weight = weight / std
        return weight, bias - weight @ mean
