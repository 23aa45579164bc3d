"""How sure a mean over seeds or rows is."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ray_app.metrics._arrays import scores_of


class Interval(NamedTuple):
    """A mean with what surrounds it."""

    mean: float
    low: float
    high: float


def standard_error(values: ArrayLike) -> float:
    """Return the standard error of the mean, sample standard deviation / sqrt(n); nan for one value.

    Args:
        values: [n], one a seed.

    Raises:
        ValueError: Empty or not finite.
    """
    x = scores_of(values, "standard_error")
    return float(x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else float("nan")


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean and its Student-t interval; infinitely wide for one value.

    Args:
        values: [n], one a seed.
        level: Share of such intervals that hold the true mean.

    Raises:
        ValueError: Empty or not finite, or level out of 0..1.
    """
    from scipy.stats import t

    _check_level(level)
    x = scores_of(values, "mean_interval")
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, -np.inf, np.inf)
    half = float(t.ppf((1 + level) / 2, len(x) - 1)) * standard_error(x)
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(
    values: ArrayLike, rng: np.random.Generator, level: float = 0.95, draws: int = 2000
) -> Interval:
    """Return the mean and its percentile-bootstrap interval, for values far from normal (0/1 rows, say).

    Args:
        values: [n].
        rng: The only source of chance.
        level: Share of such intervals that hold the true mean.
        draws: Resamplings.

    Raises:
        ValueError: Empty or not finite, level out of 0..1, or draws < 1.
    """
    _check_level(level)
    if draws < 1:
        raise ValueError(f"bootstrap_interval: draws must be >= 1, got {draws!r}; try 2000")
    x = scores_of(values, "bootstrap_interval")
    means = np.array([x[rng.integers(len(x), size=len(x))].mean() for _ in range(draws)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(x.mean()), float(low), float(high))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level!r}; try 0.95")
