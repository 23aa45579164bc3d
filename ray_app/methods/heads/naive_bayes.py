"""Gaussian naive Bayes: features are independent given the class.

    log p(c | x) = log prior_c - (1/2) sum_j [ (x_j - mean_cj)^2 / v_j + log v_j ] + constant
    v_j = sum_c (n_c / n) var_cj + var_smoothing * max_j var_j        shared over classes: linear in x
    v_j -> v_cj                                                       each class its own: quadratic in x

var: population variances within classes; max_j var_j: the largest variance of a feature over all rows.

Reference: C. Zheng, G. Wu, F. Bao, Y. Cao, C. Li, J. Zhu, "Revisiting Discriminative vs. Generative
    Classifiers: Theory and Implications", ICML 2023, https://arxiv.org/abs/2302.02334
Departure: the smoothing is relative to the features' scale, as in scikit-learn.
Cost: fit O(n d), state O(c d); predict one product, O(n c d).
"""

from typing import Literal

import torch
from torch import Tensor

from ray_app.methods._covariance import Moments
from ray_app.methods.encoders import Features
from ray_app.methods.heads._linear import Linear
from ray_app.methods.heads._moments import MomentsHead, spread_out

# In the features' unit squared: keeps features without any spread finite.
_LEAST_VARIANCE = 1e-30


class NaiveBayes(MomentsHead):
    """Learns from few labels (logistic overtakes it with many), online, in one pass over any number of rows.

    Args:
        shared_variance: One variance a feature for all classes, as in the paper; otherwise one for each
            class.
        var_smoothing: Share of the largest variance that is added to all.
        priors: Class shares as seen, or all the same.
        num_classes: c, where it is known; None: the largest label seen plus one.
    """

    name = "naive_bayes"

    def __init__(
        self,
        *,
        shared_variance: bool = True,
        var_smoothing: float = 1e-9,
        priors: Literal["empirical", "uniform"] = "empirical",
        num_classes: int | None = None,
    ) -> None:
        if not var_smoothing >= 0:
            raise ValueError(
                f"naive_bayes: var_smoothing must be >= 0, got {var_smoothing!r}; leave it out for 1e-9"
            )
        if priors not in ("empirical", "uniform"):
            raise ValueError(f"naive_bayes: priors must be empirical or uniform, got {priors!r}")
        super().__init__(tied=False, num_classes=num_classes)
        self.shared_variance = shared_variance
        self.var_smoothing = var_smoothing
        self.priors = priors

    def logits(self, features: Features) -> Tensor:
        """Return float64 [n, c]: log p(c | x) up to a constant of each row; -inf for a class never seen.

        Raises:
            NotFittedError: Nothing was learned yet.
            ValueError: The features' width is not the fitted one.
        """
        linear = super().logits(features)
        if self.shared_variance:
            return linear
        weight, origin = self.derive("quadratic", self._quadratic)
        return linear + (features.pooled.double() - origin).square() @ weight.T

    def to_linear(self) -> tuple[Tensor, Tensor]:
        """Return weight [c, d] and bias [c], float64; softmax(x @ weight.T + bias) is predict_proba.

        Raises:
            NotFittedError: Nothing was learned yet.
            ValueError: Each class has its own variance, so the classifier is not linear.
        """
        if not self.shared_variance:
            raise ValueError(
                "naive_bayes: with shared_variance=False it is quadratic; set shared_variance=True"
            )
        return super().to_linear()

    def _linear(self) -> Linear:
        moments = self._moments()
        seen, origin = moments.seen, moments.centre
        away = self.means[seen] - origin
        variance = self._variance(moments)
        share = self.counts[seen] / self.counts.sum()
        prior = share.log() if self.priors == "empirical" else torch.zeros_like(share)
        bias = prior - 0.5 * (away.square() / variance).sum(1)
        if not self.shared_variance:
            bias = bias - 0.5 * variance.log().sum(1)
        return Linear(*spread_out(away / variance, bias, seen, len(self.counts)), origin)

    def _quadratic(self) -> tuple[Tensor, Tensor]:
        moments = self._moments()
        weight = self.means.new_zeros(self.means.shape)
        weight[moments.seen] = -0.5 / self._variance(moments)
        return weight, moments.centre

    def _variance(self, moments: Moments) -> Tensor:
        """float64 [d], or [seen, d] where each class has its own."""
        seen, n = moments.seen, self.counts.sum()
        within = self.scatter.sum(0) / n
        total = within + (self.counts[seen] / n) @ (self.means[seen] - moments.centre).square()
        floor = self.var_smoothing * total.max() + _LEAST_VARIANCE
        if self.shared_variance:
            return within + floor
        return self.scatter[seen] / self.counts[seen][:, None] + floor
