"""Gaussian statistics of classes as sums that can be added: counts, means, and scatter around the means.

    count_c,  mean_c = (1 / count_c) sum_{i in c} x_i
    tied:     scatter = sum_c sum_{i in c} (x_i - mean_c)(x_i - mean_c)^T          [d, d]
    diagonal: scatter_c = sum_{i in c} (x_i - mean_c)^2, feature by feature          [c, d]

Two such sets are added exactly (Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for
Computing Sample Variances", 1979), so rows can be read in any order, in parts, on many machines. Everything
is float64: squares of float32 values far from zero lose all their digits.

Cost: O(n d^2) time and O(c d + d^2) state for tied, O(n d) and O(c d) for diagonal.
"""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

# Rows that are converted to float64 at a time: memory stays linear and in the cache.
_ROWS = 4096
# Added to every variance, in the features' unit squared: data without any spread still has a finite distance.
_FLOOR = 1e-10


@dataclass(frozen=True)
class Moments:
    """Sums of c classes in d dimensions; c = d = 0 before the first row."""

    counts: Tensor
    """float64 [c]"""
    means: Tensor
    """float64 [c, d]; zero where the count is."""
    scatter: Tensor
    """float64 [d, d] (tied) or [c, d] (diagonal)."""
    tied: bool

    @classmethod
    def none(cls, *, tied: bool) -> Self:
        """Return the sums of no rows."""
        return cls(_zeros(0), _zeros(0, 0), _zeros(0, 0), tied)

    @classmethod
    def of(cls, x: Tensor, labels: Tensor, num_classes: int, *, tied: bool) -> Self:
        """Return the sums of rows.

        Args:
            x: Floats [n, d].
            labels: int64 [n] in 0..num_classes-1.
            num_classes: c.
            tied: Scatter of all classes together with its covariances, or of each class feature by feature.
        """
        n, d = x.shape
        counts = torch.bincount(labels, minlength=num_classes).to(torch.float64)
        means = _zeros(num_classes, d, like=x)
        for rows in _chunks(n):
            means.index_add_(0, labels[rows], x[rows].double())
        means /= counts.clamp(min=1)[:, None]
        scatter = _zeros(d if tied else num_classes, d, like=x)
        for rows in _chunks(n):
            centred = x[rows].double() - means[labels[rows]]
            if tied:
                scatter.addmm_(centred.T, centred)
            else:
                scatter.index_add_(0, labels[rows], centred.square_())
        return cls(counts, means, scatter, tied)

    def add(self, other: "Moments") -> "Moments":
        """Return the sums of both sets of rows."""
        if not len(other.counts):
            return self
        if not len(self.counts):
            return other
        c = max(len(self.counts), len(other.counts))
        a, b = self.widened(c), other.widened(c).to(self.counts.device)
        total = a.counts + b.counts
        gap = b.means - a.means
        share = b.counts / total.clamp(min=1)
        between = (a.counts * share)[:, None] * gap
        spread = between.T @ gap if self.tied else between * gap
        return Moments(total, a.means + gap * share[:, None], a.scatter + b.scatter + spread, self.tied)

    def widened(self, num_classes: int) -> "Moments":
        """Return the same sums with room for more classes."""
        more = num_classes - len(self.counts)
        if more <= 0:
            return self
        pad = torch.nn.functional.pad
        scatter = self.scatter if self.tied else pad(self.scatter, (0, 0, 0, more))
        return Moments(pad(self.counts, (0, more)), pad(self.means, (0, 0, 0, more)), scatter, self.tied)

    def to(self, device: torch.device | str) -> "Moments":
        """Return them on a device."""
        return Moments(self.counts.to(device), self.means.to(device), self.scatter.to(device), self.tied)

    @property
    def seen(self) -> Tensor:
        """int64: classes with at least one row."""
        return self.counts.nonzero()[:, 0]

    @property
    def centre(self) -> Tensor:
        """float64 [d]: the mean of all rows."""
        return (self.counts / self.counts.sum()) @ self.means


def tied_covariance(scatter: Tensor, count: float, shrinkage: float | Literal["oas"]) -> Tensor:
    """Return float64 [d, d] that has an inverse: (1 - s) S + s (tr S / d) I, with S = scatter / count.

    Args:
        scatter: float64 [d, d].
        count: Rows in it.
        shrinkage: s in 0..1, or `oas`: the amount that is best for Gaussian rows (Chen, Wiesel, Eldar, Hero,
            "Shrinkage Algorithms for MMSE Covariance Estimation", 2010).
    """
    d = len(scatter)
    covariance = scatter / max(count, 1)
    scale = covariance.trace() / d
    amount = _oas(covariance, count) if shrinkage == "oas" else shrinkage
    covariance = (1 - amount) * covariance
    covariance.diagonal().add_(amount * scale + _FLOOR)
    return covariance


def check_shrinkage(shrinkage: float | str, name: str) -> None:
    """Refuse what tied_covariance cannot use.

    Raises:
        ValueError: Neither `oas` nor a number in 0..1.
    """
    is_share = isinstance(shrinkage, (int, float)) and 0 <= shrinkage <= 1
    if shrinkage != "oas" and not is_share:
        raise ValueError(f"{name}: shrinkage must be a share in 0..1 or 'oas', got {shrinkage!r}; try 1e-6")


def _oas(covariance: Tensor, count: float) -> float:
    d = len(covariance)
    squared = float(covariance.square().sum())
    trace2 = float(covariance.trace()) ** 2
    # As in scikit-learn: the paper's terms in 2 / d are left out, which vanish for the d that matter.
    bottom = (count + 1) * (squared - trace2 / d)
    return 1.0 if bottom <= 0 else min(1.0, (squared + trace2) / bottom)


def _chunks(n: int) -> list[slice]:
    return [slice(start, start + _ROWS) for start in range(0, n, _ROWS)]


def _zeros(*shape: int, like: Tensor | None = None) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, device=None if like is None else like.device)
