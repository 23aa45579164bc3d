"""What selectors by distance share: farthest-first traversal and unit vectors."""

import numpy as np

_LEAST_LENGTH = 1e-12


def unit(x: np.ndarray) -> np.ndarray:
    """Return float32 [n, d] of length one; rows of length zero stay."""
    x = np.asarray(x, dtype=np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _LEAST_LENGTH)


def farthest_first(
    features: np.ndarray,
    labelled: np.ndarray | None,
    costs: np.ndarray,
    budget: float,
    *,
    normalize: bool = False,
) -> tuple[np.ndarray, float]:
    """Return int64 [m] rows, each the farthest from all before it, and the distance that remains.

    Args:
        features: [n, d] of the pool, n >= 1.
        labelled: [m, d] of rows that count as chosen; None: the first is the one nearest to the mean.
        costs: [n].
        budget: For the chosen rows.
        normalize: Compare directions.
    """
    x = unit(features) if normalize else np.asarray(features, dtype=np.float32)
    # Squares of large numbers lose the digits in which near rows differ.
    origin = x.mean(0, dtype=np.float64).astype(np.float32)
    x = x - origin
    nearest = np.full(len(x), np.inf)
    seeds = np.zeros((0, x.shape[1]), dtype=np.float32)
    if labelled is not None and len(labelled):
        seeds = (unit(labelled) if normalize else np.asarray(labelled, dtype=np.float32)) - origin
    for seed in seeds:
        nearest = np.minimum(nearest, np.square(x - seed).sum(1))
    chosen: list[int] = []
    left = budget + 1e-9 * max(1.0, abs(budget))
    free = np.ones(len(x), dtype=bool)
    while free.any():
        first = not len(seeds) and not chosen
        row = int(np.square(x).sum(1).argmin() if first else np.where(free, nearest, -1.0).argmax())
        if costs[row] > left:
            break
        left -= costs[row]
        chosen.append(row)
        free[row] = False
        nearest = np.minimum(nearest, np.square(x - x[row]).sum(1))
    radius = float(np.sqrt(nearest.max()))
    return np.array(chosen, dtype=np.int64), radius
