"""What heads that learn from class means and variances share: sums that add up."""

from typing import Self

import torch
from torch import Tensor

from ray_app.methods._checks import finite, indices, matrix, some
from ray_app.methods._covariance import Moments
from ray_app.methods.encoders import Features
from ray_app.methods.heads._linear import LinearHead


class MomentsHead(LinearHead):
    """A head whose state is Moments of the rows; it learns online, and merges.

    Args:
        tied: Keep the covariances of all features, or only the variance of each.
        num_classes: c, where it is known; None: the largest label seen plus one.
    """

    counts: Tensor  # float64 [c]: rows of each class
    means: Tensor  # float64 [c, d]
    scatter: Tensor  # float64 [d, d] around the class means of all rows, or [c, d] of each class and feature

    def __init__(self, *, tied: bool, num_classes: int | None) -> None:
        super().__init__(num_classes=num_classes)
        self.tied = tied
        for name, value in vars(Moments.none(tied=tied)).items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value)

    def fit(self, features: Features, labels: Tensor) -> Self:
        """Forget, then learn from features.pooled [n, d] and labels int64 [n].

        Raises:
            ValueError: No rows, rows that are not finite, or bad labels.
        """
        some(len(features), self.name)
        self._set(Moments.none(tied=self.tied).to(self.counts.device))
        return self.partial_fit(features, labels)

    def partial_fit(self, features: Features, labels: Tensor | None = None) -> Self:
        """Learn from more rows, of old or new classes; no rows (n = 0) change nothing.

        Raises:
            ValueError: See fit.
        """
        n = len(features)
        if n == 0:
            return self
        if labels is None:
            raise ValueError(f"{self.name}: no labels; a head learns from labelled rows")
        labels = indices(labels, n, self.name, self.num_classes)
        x = finite(matrix(features.pooled.detach(), self.name, self.means.shape[1]), self.name)
        c = self.num_classes or int(labels.max()) + 1
        return self._set(self._moments().add(Moments.of(self._rows(x.double()), labels, c, tied=self.tied)))

    def merge(self, other: Self) -> Self:
        """Learn what `other` learned; equals one fit on both sets of rows.

        Raises:
            ValueError: It learned from features of another width.
        """
        if not other._fitted():
            return self
        matrix(other.means, self.name, self.means.shape[1])
        return self._set(self._moments().add(other._moments()))

    def _fitted(self) -> bool:
        return bool((self.counts > 0).any())

    def _moments(self) -> Moments:
        return Moments(self.counts, self.means, self.scatter, self.tied)

    def _set(self, moments: Moments) -> Self:
        device = self.counts.device
        self.counts, self.means, self.scatter = (
            value.to(device) for value in (moments.counts, moments.means, moments.scatter)
        )
        return self


def spread_out(weight: Tensor, bias: Tensor, seen: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return weight [c, d] and bias [c] of all classes from those of the seen ones: others are impossible."""
    full_weight = weight.new_zeros(num_classes, weight.shape[1])
    full_bias = bias.new_full((num_classes,), -torch.inf)
    full_weight[seen], full_bias[seen] = weight, bias
    return full_weight, full_bias
