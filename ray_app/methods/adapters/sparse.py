"""Static sparsity: random weights are zero while training, and free again after it.

    W' = m * W,    m in {0, 1}, a fixed share of zeros in each matrix, drawn once

Masked weights stay exactly 0, and get no gradient. Merged, they are plain zeros in a dense network: trained
on with `full`, they learn with the rest (sparse pre-training, dense fine-tuning).

Reference: V. Thangarasa, A. Gupta, W. Marshall et al., "SPDF: Sparse Pre-training and Dense Fine-tuning for
    Large Language Models", UAI 2023, https://arxiv.org/abs/2303.10464
Departure: convolutions too. Weights that are left keep their size, as we read the paper.
Cost: one product a weight and pass. Nothing becomes faster: what is saved is operations on hardware that
    skips zeros.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ray_app.methods.adapters import Adapter
from ray_app.methods.adapters._change import Change, change, settle
from ray_app.methods.adapters._layers import layers, weights

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder


class Sparse(Adapter):
    """Use it in a stage that makes a start. It alters the network on attaching; everything trains.

    Args:
        sparsity: Share of each weight matrix that is zero.
        targets: Layers by the end of their dotted names; None: all linear and convolution layers but the
            classifier. Embeddings, biases and normalisation stay dense.
        seed: Of the masks; the same seed and model give the same ones in every process.
    """

    holds_statistics = False

    def __init__(
        self, *, sparsity: float = 0.75, targets: Sequence[str] | None = None, seed: int = 0
    ) -> None:
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparse: sparsity must be in 0..1, below 1, got {sparsity!r}; 0.75 is usual")
        self.sparsity = sparsity
        self.targets = targets
        self.seed = seed

    def _check(self, model: "Encoder") -> None:
        layers(model, self.targets, self.name)

    def _insert(self, model: "Encoder") -> None:
        for parameter in model.parameters():
            parameter.requires_grad_()
        generator = torch.Generator().manual_seed(self.seed)
        found = weights(model, self.targets, self.name)
        change(model, {w: _Mask(self._mask(w, generator)) for w in found}, self.name)

    def _remove(self, model: "Encoder") -> None:
        settle(model)

    def _mask(self, weight: Tensor, generator: torch.Generator) -> Tensor:
        zeros = torch.randperm(weight.numel(), generator=generator)[: round(self.sparsity * weight.numel())]
        return torch.ones(weight.numel(), dtype=torch.bool).index_fill_(0, zeros, 0).view(weight.shape)


class _Mask(Change):
    """Reads masked weights as zero. What is stored there stays as it was, without a gradient."""

    mask: Tensor  # bool, of the weight's shape; not part of the state, the seed is

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask
