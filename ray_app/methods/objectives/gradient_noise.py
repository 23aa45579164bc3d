"""Gradient noise: annealed Gaussian noise on every gradient, which shakes a training off a plateau.

    g <- g + N(0, sigma_t^2),     sigma_t^2 = eta / (1 + t)^gamma

t: optimiser steps done, from 0; independent for each element. After clipping, so that early the noise may be
larger than the clipped gradient, and once a step, however many batches its gradient is of.

Reference: A. Neelakantan et al., "Adding Gradient Noise Improves Learning for Very Deep Networks", 2015,
    https://arxiv.org/abs/1511.06807
Cost: a normal draw for each weight and step, on the CPU.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ray_app.methods.objectives import Objective, TrainBatch

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder


class GradientNoise(Objective):
    """For deep networks and poor starts, beside a loss: `[cross_entropy, {name: gradient_noise, eta: 0.3}]`.

    Meant for sgd; Adam divides by the gradient's size, and so by the noise's.

    Args:
        eta: The variance at the first step; the paper's are 0.01, 0.3 and 1.
        gamma: How fast the variance falls.
    """

    labels = "none"
    minimises = False

    def __init__(self, *, eta: float = 0.3, gamma: float = 0.55) -> None:
        super().__init__()
        if not eta >= 0:
            raise ValueError(f"gradient_noise: eta must be >= 0, got {eta!r}; try 0.3")
        if not gamma >= 0:
            raise ValueError(f"gradient_noise: gamma must be >= 0, got {gamma!r}; try 0.55")
        self.eta = eta
        self.gamma = gamma

    def sigma(self, step: int) -> float:
        """Return the noise's standard deviation at a step."""
        return float((self.eta / (1 + step) ** self.gamma) ** 0.5)

    def loss(
        self, model: "Encoder", batch: TrainBatch, step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return nothing: it has no loss."""
        return {}

    def before_step(self, model: "Encoder", step: int, generator: torch.Generator) -> None:
        """Add noise to the model's gradients; the same generator adds the same on every device."""
        if self.eta == 0:
            return
        sigma = self.sigma(step)
        for parameter in model.parameters():
            if parameter.grad is not None:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.grad.add_(noise.to(parameter.grad), alpha=sigma)
