"""Linear support vector machine on unit features, one class against the rest.

    f = s(x) / ||s(x)||,   s(x) = sign(x) |x|^power (or x)
    min_{w_c, b_c}  (1/2) (||w_c||^2 + b_c^2) + C sum_i max(0, 1 - y_ic (w_c f_i + b_c))^2,   y_ic = +1 or -1
    p(c | x) = softmax_c((w_c f + b_c) / t),   t: fitted on held-out training rows

Reference: A. S. Razavian, H. Azizpour, J. Sullivan, S. Carlsson, "CNN Features off-the-shelf: an Astounding
    Baseline for Recognition", CVPR workshops 2014, https://arxiv.org/abs/1403.6382
Departure: squared hinge (liblinear's default) for the paper's hinge. The paper ranks margins; the
    temperature, which keeps their order, is ours.
Cost: fit O(iterations n c d), times the grid; predict one product, O(n c d).
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ray_app.methods.heads._fitted import FittedLinear, both_sides
from ray_app.methods.heads._linear import unit_rows
from ray_app.metrics.calibration import fit_temperature
from ray_app.metrics.classification import accuracy


class LinearSVM(FittedLinear):
    """The classic on frozen features of a network trained for something else; strong with few labels.

    Args:
        C: Weight of margin violations against the length of w.
        grid: Values of C to choose from by accuracy on held-out training rows; None: take C.
        holdout: Share of each class' rows that is held out for that, and for the temperature of the
            probabilities; the final weights are fitted on all rows. Classes of one row hold nothing out.
        power: Exponent of the signed power; 0.5 is the paper's square root, None: none.
        max_iter: Most iterations of the solver.
        seed: Of the held-out draw and of the solver.
        num_classes: c, where it is known; None: the largest label seen plus one.
    """

    name = "linear_svm"

    def __init__(
        self,
        *,
        C: float = 1.0,
        grid: Sequence[float] | None = None,
        holdout: float = 0.25,
        power: float | None = None,
        max_iter: int = 5000,
        seed: int = 0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes)
        if not all(value > 0 for value in (C, *(grid or ()))):
            raise ValueError(f"linear_svm: C and all of grid must be > 0, got C={C!r}, grid={grid!r}")
        if grid is not None and not grid:
            raise ValueError("linear_svm: grid is empty; name values of C, or leave it out")
        if not 0 < holdout < 1:
            raise ValueError(f"linear_svm: holdout must be a share in 0..1, got {holdout!r}; try 0.25")
        if power is not None and not power > 0:
            raise ValueError(f"linear_svm: power must be > 0, got {power!r}; try 0.5, or leave it out")
        self.C = C
        self.grid = list(grid) if grid is not None else None
        self.holdout = holdout
        self.power = power
        self.max_iter = max_iter
        self.seed = seed

    def _rows(self, x: Tensor) -> Tensor:
        return unit_rows(x if self.power is None else x.sign() * x.abs() ** self.power)

    def _solve(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        C, temperature = self._chosen(x, y)
        weight, bias = self._trained(C, x, y)
        return weight / temperature, bias / temperature

    def _chosen(self, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        """C and temperature, from held-out rows."""
        held_out = _stratified(y, self.holdout, np.random.default_rng(self.seed))
        if not held_out.any():
            return self.C, 1.0
        truth = np.searchsorted(np.unique(y), y[held_out])
        tried = []
        for C in self.grid or [self.C]:
            weight, bias = self._trained(C, x[~held_out], y[~held_out])
            margins = x[held_out] @ weight.T + bias
            tried.append((accuracy(margins, truth), C, margins))
        # max takes the first of equals: the order of the grid is the user's preference.
        _, C, margins = max(tried, key=lambda one: one[0])
        return C, fit_temperature(margins, truth)

    def _trained(self, C: float, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.svm import LinearSVC

        model = LinearSVC(C=C, max_iter=self.max_iter, random_state=self.seed).fit(x, y)
        return both_sides(model.coef_, model.intercept_, halve=False)


def _stratified(y: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Boolean [n]: about this share of every class, but never all of it."""
    chosen = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        chosen[rows[: min(round(share * len(rows)), len(rows) - 1)]] = True
    return chosen
