"""Mahalanobis distances at the price of a matrix product.

    z = L^-1 (x - g),   S = L L^T,   g: mean of all rows
    d_c(x) = || z - L^-1 (mean_c - g) ||^2

L^-1 is triangular, so the product is done in column blocks that leave out the zeros. The nearest class is
found from one further product with the c whitened means; its distance is then taken from the difference
itself, which does not cancel. float32 is used where the statistics promise that it is exact enough, float64
elsewhere.

Cost: O(n d^2 / 2 + n d c); memory linear in the rows of a chunk.
"""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from ray_app.methods._covariance import Moments, tied_covariance

# Rows at a time, which bounds the memory. Smaller parts fit the cache better, but each operation on a part
# makes all threads wait for one another: with 2,048 rows and two threads on busy cores, five products' time
# went into that.
_ROWS = 8192
# Column blocks of the triangular product; more save flops but make the products too narrow to be fast.
_BLOCKS = 4
_LEAST_BLOCK = 64
# Relative error of a usual row's distance up to which float32 will do.
_TOLERANCE = 2e-5


@dataclass(frozen=True)
class Whitened:
    """What is precomputed from one layer's sums."""

    high: Tensor
    """[d]: g rounded to the working type."""
    shift: Tensor
    """[d]: whitened, what the rounding left: z = (x - high) @ factor + shift is as if g were exact."""
    factor: Tensor
    """[d, d]: (L^-1)^T, upper triangular."""
    means: Tensor
    """[c, d]: whitened means of the classes that were seen."""
    squares: Tensor
    """[c]: their squared lengths."""

    @classmethod
    def of(cls, moments: Moments, shrinkage: float | Literal["oas"]) -> Self:
        """Precompute from tied sums of at least one row.

        Raises:
            ValueError: The covariance has no inverse even after shrinkage.
        """
        total = float(moments.counts.sum())
        covariance = tied_covariance(moments.scatter, total, shrinkage)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if bool(failed):
            raise ValueError(
                f"the covariance of {total:g} rows [n, {len(covariance)}] has no inverse; raise shrinkage"
            )
        identity = torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        centre = moments.centre
        means = (moments.means[moments.seen] - centre) @ inverse.T
        spread = covariance.diagonal() + ((moments.means[moments.seen] - centre) ** 2).mean(0)
        kind = torch.float32 if _float32_will_do(inverse, means, spread) else torch.float64
        high = centre.to(kind)
        return cls(
            high=high,
            shift=((high.double() - centre) @ inverse.T).to(kind),
            factor=inverse.T.contiguous().to(kind),
            means=means.to(kind),
            squares=means.square().sum(1).to(kind),
        )

    def nearest(self, x: Tensor) -> Tensor:
        """Return float32 [n]: squared Mahalanobis distance of rows x [n, d] to the nearest class mean."""
        parts = [self._nearest(part) for part in torch.split(x, _ROWS)]
        return torch.cat(parts).float()

    def _nearest(self, x: Tensor) -> Tensor:
        z = self._whiten(x)
        if len(self.means) == 1:
            return (z - self.means).square().sum(1)
        closest = torch.addmm(self.squares, z.detach(), self.means.T, alpha=-2).argmin(1)
        return (z - self.means[closest]).square().sum(1)

    def _whiten(self, x: Tensor) -> Tensor:
        centred = x.to(self.high.dtype) - self.high
        d = len(self.high)
        step = -(-d // _BLOCKS)
        if step < _LEAST_BLOCK:
            return torch.addmm(self.shift, centred, self.factor)
        spans = [(start, min(start + step, d)) for start in range(0, d, step)]
        return torch.cat(
            [torch.addmm(self.shift[a:b], centred[:, :b], self.factor[:b, a:b]) for a, b in spans], dim=1
        )


def _float32_will_do(inverse: Tensor, means: Tensor, spread: Tensor) -> bool:
    # Each term A_ij (x_j - g_j) is rounded; what that does to a usual row follows from the variances.
    eps = torch.finfo(torch.float32).eps
    d = len(spread)
    rounding = eps * (inverse.square() @ spread).sum().sqrt() / d**0.5
    # The choice of the nearest mean compares sums as large as the means' squared lengths.
    choosing = eps * means.square().sum(1).max() / d
    return bool(rounding < _TOLERANCE) and bool(choosing < _TOLERANCE)
