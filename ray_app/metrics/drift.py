"""Whether scores come from the distribution that they were calibrated on, of which quantiles are left.

    PSI = sum over bins of (o - e) ln(o / e)       o, e: shares of the scores now and then
    KS  = sup_s |F_now(s) - F_then(s)|

References: B. Yurdakul, "Statistical Properties of Population Stability Index", 2018; A. Kolmogorov, 1933,
and N. Smirnov, 1948, whose two-sample distribution gives the p-value.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ray_app.metrics._arrays import scores_of

BINS = 10


@dataclass(frozen=True)
class Drift:
    """How scores differ from what they were calibrated on."""

    psi: float
    """Population stability index: below 0.1 nothing, above 0.25 much, as is usually said; chance alone gives
    about (bins - 1) (1 / n + 1 / rows)."""
    ks: float
    """The largest difference of the two distributions, 0..1."""
    p_value: float
    """Of a difference so large, if both were the same."""


def drift(scores: ArrayLike, quantiles: ArrayLike, rows: int) -> Drift:
    """Compare scores with calibrated ones.

    Between quantiles the calibrated distribution is taken to be even, and equal quantiles for one value that
    many rows had; so with few quantiles a small KS is only a lower bound.

    Args:
        scores: [n], now.
        quantiles: [k], of the calibrated scores at equally spaced probabilities from 0 to 1.
        rows: How many those were.

    Raises:
        ValueError: Empty, not finite, fewer than two quantiles, or quantiles that fall.
    """
    now = np.sort(scores_of(scores, "drift"))
    known = scores_of(quantiles, "drift")
    if len(known) < 2 or (np.diff(known) < 0).any():
        raise ValueError(f"drift: quantiles must be two or more and rise, got {len(known)}")
    if rows < 1:
        raise ValueError(f"drift: rows must be at least 1, got {rows}")
    ks = _largest_difference(now, known)
    return Drift(_stability(now, known), ks, _chance_of(ks, len(now), rows))


def _stability(now: np.ndarray, known: np.ndarray) -> float:
    # Equal edges are one: a value that many rows had is in one bin, whose share is what it is.
    edges = np.unique(np.interp(np.linspace(0, 1, BINS + 1)[1:-1], np.linspace(0, 1, len(known)), known))
    expected = np.diff(np.concatenate([[0.0], _below(known, edges), [1.0]]))
    counted = np.diff(np.concatenate([[0], np.searchsorted(now, edges, side="right"), [len(now)]]))
    # Half a row in each bin: an empty one would make it infinite.
    observed = (counted + 0.5) / (len(now) + 0.5 * len(counted))
    expected = (expected * len(now) + 0.5) / (len(now) + 0.5 * len(expected))
    return float(((observed - expected) * np.log(observed / expected)).sum())


def _largest_difference(now: np.ndarray, known: np.ndarray) -> float:
    points = np.unique(np.concatenate([now, known]))
    after = np.searchsorted(now, points, side="right") / len(now)
    before = np.searchsorted(now, points, side="left") / len(now)
    then_after, then_before = _below(known, points), _below(known, points, strictly=True)
    return float(max(np.abs(after - then_after).max(), np.abs(before - then_before).max()))


def _below(known: np.ndarray, points: np.ndarray, *, strictly: bool = False) -> np.ndarray:
    """Share of calibrated scores at most (or below) each point."""
    shares = np.linspace(0, 1, len(known))
    # At a value that several quantiles have, the distribution jumps from the first one's share to the last's.
    first = np.searchsorted(known, points, side="left")
    last = np.searchsorted(known, points, side="right")
    at = shares[np.clip((first if strictly else last - 1), 0, len(known) - 1)]
    between = np.interp(points, known, shares)
    found = np.where(last > first, at, between)
    return np.where(points < known[0], 0.0, np.where(points > known[-1], 1.0, found))


def _chance_of(difference: float, n: int, rows: int) -> float:
    from scipy.stats import kstwobign

    return float(kstwobign.sf(difference * np.sqrt(n * rows / (n + rows))))
