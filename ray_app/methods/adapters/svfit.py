"""SVFit: of each weight matrix, the largest singular values train, nothing else.

    W = U diag(s) V^T        W' = W + U_r diag(t) V_r^T

U_r, V_r: the singular vectors of the r largest singular values, frozen; t [r]: what is added to those, 0 at
the start. A kernel [out, in, h, w] is taken as a matrix [out, in h w], grouped or not.

Reference: C. Sun, J. Wei, Y. Wu et al., "SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models
    Using Singular Values", 2024, https://arxiv.org/abs/2409.05926
Departure: t = s' - s trains in place of s', so that the start is the pre-trained network to the bit and
    weight decay draws towards it, not towards zero; convolutions too.
Cost: one SVD a layer to attach; r numbers a layer train; each pass forms W' anew, O(out in r).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ray_app.methods.adapters import Adapter, train_classifier
from ray_app.methods.adapters._change import Shift, change, settle
from ray_app.methods.adapters._layers import layers, weights

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder


class SVFit(Adapter):
    """Use it where LoRA's matrices are too many numbers; it wants a larger learning rate, 0.01 to 0.1.

    Averages of candidates are averages of their singular values: the vectors are those of the common start.

    Args:
        rank: Singular values a layer that train; None: all of them.
        energy: As many as hold this share of the sum of their squares, in place of rank.
        targets: Layers by the end of their dotted names; None: all linear and convolution layers.
        keep: Which ones: the largest, or, to compare with, the smallest or random ones.
        seed: Of the choice of random ones.
    """

    def __init__(
        self,
        *,
        rank: int | None = None,
        energy: float | None = None,
        targets: Sequence[str] | None = None,
        keep: Literal["top", "bottom", "random"] = "top",
        seed: int = 0,
    ) -> None:
        if rank is not None and rank < 1:
            raise ValueError(f"svfit: rank must be >= 1, got {rank!r}; leave it out for all singular values")
        if energy is not None and not 0 < energy <= 1:
            raise ValueError(f"svfit: energy must be in 0..1, got {energy!r}; 0.99 keeps nearly all")
        if rank is not None and energy is not None:
            raise ValueError(f"svfit: got both rank={rank} and energy={energy}; give one of them")
        if keep not in ("top", "bottom", "random"):
            raise ValueError(f"svfit: keep must be top, bottom or random, got {keep!r}")
        self.rank = rank
        self.energy = energy
        self.targets = targets
        self.keep = keep
        self.seed = seed

    def _check(self, model: "Encoder") -> None:
        super()._check(model)
        layers(model, self.targets, self.name)

    def _insert(self, model: "Encoder") -> None:
        generator = torch.Generator().manual_seed(self.seed)
        found = weights(model, self.targets, self.name)
        change(model, {w: _SingularValues(*self._vectors(w, generator)) for w in found}, self.name)
        train_classifier(model)

    def _remove(self, model: "Encoder") -> None:
        settle(model)

    def _vectors(self, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """U_r [out, r] and V_r^T [r, in]."""
        # In double precision, on the CPU: there is no SVD in half, and it is done once.
        u, s, v = torch.linalg.svd(weight.detach().cpu().double().flatten(1), full_matrices=False)
        r = len(s) if self.rank is None else min(self.rank, len(s))
        if self.energy is not None:
            share = s.square().cumsum(0) / s.square().sum().clamp(min=1e-300)
            r = min(int((share < self.energy - 1e-12).sum()) + 1, len(s))
        chosen = {
            "top": torch.arange(r),
            "bottom": torch.arange(len(s) - r, len(s)),
            "random": torch.randperm(len(s), generator=generator)[:r],
        }[self.keep]
        high = torch.promote_types(weight.dtype, torch.float32)
        return u[:, chosen].to(high).contiguous(), v[chosen].to(high).contiguous()


class _SingularValues(Shift):
    """Adds to the chosen singular values."""

    u: Tensor  # [out, r]; part of the state, or a state loaded over another start would turn other vectors
    v: Tensor  # [r, in]

    def __init__(self, u: Tensor, v: Tensor) -> None:
        super().__init__()
        self.register_buffer("u", u)
        self.register_buffer("v", v)
        self.shift = nn.Parameter(u.new_zeros(u.shape[1]))

    def delta(self, dtype: torch.dtype) -> Tensor:
        return (self.u.to(dtype) * self.shift.to(dtype)) @ self.v.to(dtype)
