"""Whether averaging two models' weights is as good as averaging their logits: predicted, and measured."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ray_app.metrics._arrays import proba_of


def soup_against_ensemble(
    ends: Sequence[ArrayLike],
    line: Sequence[ArrayLike],
    labels: ArrayLike,
    *,
    mix: float,
    step: float,
) -> dict[str, float]:
    """Return by how much the loss of a soup of two exceeds that of their ensemble, in nats.

        L(soup) - L(ensemble) ~ mix (1 - mix) / 2 * ( -d2L/dmix2 + E_x Var_{Y ~ p(x)} [ f1_Y(x) - f0_Y(x) ] )

    L: mean cross-entropy; p: the soup's probabilities; f0, f1: the ends' logits. A loss that is flat along
    the line and confident answers make both the same.

    Reference: M. Wortsman et al., "Model soups", ICML 2022, Section 4, https://arxiv.org/abs/2203.05482

    Args:
        ends: Logits [n, c] of the two models.
        line: Logits [n, c] of soups with the second model's share mix - step, mix and mix + step.
        labels: Integers [n].
        mix: The second model's share in the soup.
        step: Of the second derivative, by differences.

    Returns:
        `predicted` and `measured`, and the two terms of the prediction: `curvature` (the first), `variance`.

    Raises:
        ValueError: Shapes or labels do not fit, or the line leaves 0..1.
    """
    if not 0 < mix - step < mix < mix + step < 1:
        raise ValueError(f"soup_against_ensemble: mix {mix!r} and step {step!r} leave 0..1; try 0.5 and 0.1")
    (first, second), (before, soup, after) = (
        [proba_of(logits, labels, "soup_against_ensemble")[0].astype(np.float64) for logits in group]
        for group in (ends, line)
    )
    truth = np.asarray(labels)
    losses = [_loss(logits, truth) for logits in (before, soup, after)]
    ensemble = _loss((1 - mix) * first + mix * second, truth)
    weight = mix * (1 - mix) / 2
    curvature = -weight * (losses[0] - 2 * losses[1] + losses[2]) / step**2
    proba, moved = np.exp(_log_softmax(soup)), second - first
    spread = (proba * moved**2).sum(1) - (proba * moved).sum(1) ** 2
    variance = weight * float(spread.mean())
    return {
        "predicted": curvature + variance,
        "measured": losses[1] - ensemble,
        "curvature": curvature,
        "variance": variance,
    }


def _loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-_log_softmax(logits)[np.arange(len(labels)), labels].mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
