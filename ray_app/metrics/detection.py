"""How well an abnormality score tells out-of-distribution rows from in-distribution ones.

Scores are higher for more abnormal rows; ind: in-distribution, ood: out-of-distribution.
"""

from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from ray_app.metrics._arrays import scores_of


class Calibration(TypedDict):
    """Where abnormal begins, and what normal scores look like: the fields of a bundle's threshold."""

    value: float
    """Scores above it are abnormal."""
    tpr: float
    """Share of in-distribution rows that was to be let through."""
    rows: int
    quantiles: list[float]
    """In-distribution scores at equally spaced probabilities from 0 to 1."""


def auroc(ind: ArrayLike, ood: ArrayLike) -> float:
    """Return the probability that an ood row scores higher than an ind row, ties counting half; in 0..1.

    Args:
        ind: Scores [n].
        ood: Scores [m].

    Raises:
        ValueError: Empty or not finite.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_labelled(ind, ood)))


def aupr_out(ind: ArrayLike, ood: ArrayLike) -> float:
    """Return the average precision with ood rows as positives; in 0..1. See auroc for arguments."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_labelled(ind, ood)))


def aupr_in(ind: ArrayLike, ood: ArrayLike) -> float:
    """Return the average precision with ind rows as positives; in 0..1. See auroc for arguments."""
    from sklearn.metrics import average_precision_score

    is_ood, scores = _labelled(ind, ood)
    return float(average_precision_score(1 - is_ood, -scores))


def fpr95(ind: ArrayLike, ood: ArrayLike) -> float:
    """Return the share of ood rows let through at the threshold that lets 95 % of ind rows through; in 0..1.

    Lower is better. See auroc for arguments.
    """
    return let_through(ood, threshold_at_tpr(ind, 0.95))


def threshold_at_tpr(ind: ArrayLike, tpr: float) -> float:
    """Return the least score such that at least this share of ind rows do not exceed it.

    Args:
        ind: Scores [n] of rows that the detector was not fitted on.
        tpr: Share in 0..1, both excluded.

    Raises:
        ValueError: Scores empty or not finite, or tpr out of range.
    """
    if not 0 < tpr < 1:
        raise ValueError(f"threshold_at_tpr: tpr must be between 0 and 1, got {tpr!r}; try 0.95")
    return float(np.quantile(scores_of(ind, "threshold_at_tpr"), tpr, method="inverted_cdf"))


def let_through(scores: ArrayLike, threshold: float) -> float:
    """Return the share of rows whose score does not exceed the threshold; in 0..1.

    Args:
        scores: [n].
        threshold: Scores above it are abnormal.

    Raises:
        ValueError: Empty or not finite.
    """
    return float((scores_of(scores, "let_through") <= threshold).mean())


def calibrate(ind: ArrayLike, tpr: float = 0.95, points: int = 101) -> Calibration:
    """Return the threshold of a detector with what a percentile look-up needs.

    Args:
        ind: Scores [n] of rows that the detector was not fitted on.
        tpr: Share of them to let through.
        points: How many quantiles to keep, at equally spaced probabilities from 0 to 1.

    Raises:
        ValueError: Scores empty or not finite, tpr out of range, or fewer than two points.
    """
    if points < 2:
        raise ValueError(f"calibrate: points must be >= 2, got {points!r}; try 101")
    scores = scores_of(ind, "calibrate")
    quantiles = np.quantile(scores, np.linspace(0, 1, points))
    return {
        "value": threshold_at_tpr(scores, tpr),
        "tpr": tpr,
        "rows": len(scores),
        "quantiles": [float(value) for value in quantiles],
    }


def detection_report(ind: ArrayLike, ood: ArrayLike) -> dict[str, float]:
    """Return all of the above by name: auroc, aupr_in, aupr_out, fpr95. See auroc for arguments."""
    return {f.__name__: f(ind, ood) for f in (auroc, aupr_in, aupr_out, fpr95)}


def _labelled(ind: ArrayLike, ood: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    normal, abnormal = scores_of(ind, "ind"), scores_of(ood, "ood")
    is_ood = np.repeat([0, 1], [len(normal), len(abnormal)])
    return is_ood, np.concatenate([normal, abnormal])
