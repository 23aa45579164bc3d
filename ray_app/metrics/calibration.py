"""How far confidence is from accuracy, and the temperature that mends it."""

import numpy as np
from numpy.typing import ArrayLike

from ray_app.metrics._arrays import proba_of


def ece(proba: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Return the expected calibration error in 0..1: mean |accuracy - confidence| over bins, by rows.

    Bins are equally wide, open below and closed above; confidence is the largest probability.

    Reference: C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On Calibration of Modern Neural Networks", ICML
        2017.

    Args:
        proba: Probabilities [n, c].
        labels: Integers [n] in 0..c-1.
        bins: How many.

    Raises:
        ValueError: Shapes or labels do not fit, n = 0, or bins < 1.
    """
    if bins < 1:
        raise ValueError(f"ece: bins must be >= 1, got {bins!r}")
    p, y = proba_of(proba, labels, "ece")
    confidence = p.max(1)
    correct = p.argmax(1) == y
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(which, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(y))


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the temperature > 0 with the least mean -log softmax(logits / temperature) of the true class.

    Fit it on rows that are neither trained nor tested on.

    Args:
        logits: [n, c], before softmax.
        labels: Integers [n] in 0..c-1.

    Raises:
        ValueError: Shapes or labels do not fit, or n = 0.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    z, y = proba_of(logits, labels, "fit_temperature")
    true = z[np.arange(len(y)), y]

    def mean_nll(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((logsumexp(z * scale, axis=1) - true * scale).mean())

    # The logarithm makes 1/20 and 20 equally far from 1; beyond them a model has other troubles.
    found = minimize_scalar(mean_nll, bounds=(-np.log(20), np.log(20)), method="bounded")
    return float(np.exp(found.x))
