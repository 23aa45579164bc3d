"""Nearest mean: a row belongs to the class whose mean is nearest.

    p(c | x) = softmax_c( -dist(x, mean_c)^2 / temperature )
    dist: euclidean     ||x - m||
          cosine        ||x/||x|| - m/||m|| ||, so dist^2 = 2 - 2 cos(x, m); means of unit rows
          mahalanobis   sqrt((x - m)^T S^-1 (x - m)), S: covariance around the class means, of all classes
          together

Without a given temperature it is that of Gaussian classes: twice the variance within classes along the
directions in which their means differ, sum_j v_j b_j / sum_j b_j for within-class variances v_j and variances
of the means b_j; for mahalanobis that is 2.

Reference: P. Janson, W. Zhang, R. Aljundi, M. Elhoseiny, "A Simple Baseline that Questions the Use of
    Pretrained-Models in Continual Learning", 2022, https://arxiv.org/abs/2210.04428
Departure: the paper predicts a class; probabilities, and their temperature, are ours.
Cost: fit O(n d) and O(c d) state (mahalanobis: O(n d^2) and O(c d + d^2)); predict one product, O(n c d).
"""

from typing import Literal, Self

import torch
from torch import Tensor

from ray_app.methods._covariance import check_shrinkage, tied_covariance
from ray_app.methods.heads._linear import Linear, unit_rows
from ray_app.methods.heads._moments import MomentsHead, spread_out


class NearestMean(MomentsHead):
    """Learns new classes at any time, forgets none of the old, stores no rows; their order does not matter.

    Args:
        metric: How near is measured.
        normalize: Scale rows to length 1 first (cosine always does).
        temperature: Of the softmax, in the metric's squared unit; None: from the spread within classes.
        shrinkage: For mahalanobis: share of an isotropic covariance mixed in, or `oas`: estimated, for few
            rows.
        num_classes: c, where it is known; None: the largest label seen plus one.
    """

    name = "nearest_mean"

    def __init__(
        self,
        *,
        metric: Literal["euclidean", "cosine", "mahalanobis"] = "euclidean",
        normalize: bool = False,
        temperature: float | None = None,
        shrinkage: float | Literal["oas"] = 1e-6,
        num_classes: int | None = None,
    ) -> None:
        if metric not in ("euclidean", "cosine", "mahalanobis"):
            raise ValueError(f"nearest_mean: metric must be euclidean, cosine or mahalanobis, got {metric!r}")
        if temperature is not None and not temperature > 0:
            raise ValueError(
                f"nearest_mean: temperature must be > 0, got {temperature!r}; leave it out to calibrate"
            )
        check_shrinkage(shrinkage, "nearest_mean")
        super().__init__(tied=metric == "mahalanobis", num_classes=num_classes)
        self.metric = metric
        self.normalize = normalize or metric == "cosine"
        self.temperature = temperature
        self.shrinkage = shrinkage

    def forget(self, label: int) -> Self:
        """Unlearn a class; its probability is 0 from then on.

        With mahalanobis, what it added to the covariance that all classes share remains.

        Raises:
            ValueError: No row of this class was learned.
        """
        if not (0 <= label < len(self.counts) and self.counts[label] > 0):
            raise ValueError(
                f"nearest_mean: cannot forget class {label}; seen: {self._moments().seen.tolist()}"
            )
        for name in ("counts", "means") if self.tied else ("counts", "means", "scatter"):
            changed = getattr(self, name).clone()
            changed[label] = 0
            setattr(self, name, changed)
        return self

    def _rows(self, x: Tensor) -> Tensor:
        return unit_rows(x) if self.normalize else x

    def _linear(self) -> Linear:
        moments = self._moments()
        seen, origin = moments.seen, moments.centre
        means = self.means[seen]
        if self.metric == "cosine":
            means = unit_rows(means)
        away = means - origin
        if self.tied:
            factor = torch.linalg.cholesky(
                tied_covariance(self.scatter, float(self.counts.sum()), self.shrinkage)
            )
            away_scaled = torch.cholesky_solve(away.T, factor).T
        else:
            away_scaled = away
        temperature = self.temperature or self._calibrated(away)
        # ||x||^2 is the same for all classes and drops out of the softmax.
        weight = 2 * away_scaled / temperature
        bias = -(away * away_scaled).sum(1) / temperature
        return Linear(*spread_out(weight, bias, seen, len(self.counts)), origin)

    def _calibrated(self, away: Tensor) -> float:
        if self.tied:
            return 2.0
        within = self.scatter.sum(0) / self.counts.sum()
        between = away.square().mean(0)
        # One class, or means that coincide: every direction counts alike. One row a class: no spread is
        # known.
        weights = between if bool(between.any()) else torch.ones_like(between)
        temperature = float(2 * (within * weights).sum() / weights.sum())
        return temperature or float(2 * between.mean()) or 1.0
