"""What all metrics ask of their arrays."""

import numpy as np
from numpy.typing import ArrayLike


def scores_of(values: ArrayLike, what: str) -> np.ndarray:
    """Return float64 [n], n >= 1.

    Raises:
        ValueError: Empty, not one-dimensional, or not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{what}: scores of shape {array.shape}; expected [n] with at least one row")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{what}: {int((~np.isfinite(array)).sum())} of {len(array)} scores are not finite; mend them"
        )
    return array


def proba_of(proba: ArrayLike, labels: ArrayLike, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 [n, c] and int64 [n], n >= 1.

    Raises:
        ValueError: Shapes that do not fit, labels outside 0..c-1, or no rows.
    """
    p, y = np.asarray(proba, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2 or y.shape != (len(p),) or not len(p):
        raise ValueError(f"{what}: proba {p.shape} and labels {y.shape}; expected [n, c] and [n], n >= 1")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(
            f"{what}: labels {y.dtype} in {y.min()}..{y.max()}; expected integers in 0..{p.shape[1] - 1}"
        )
    return p, y.astype(np.int64)
