"""In-batch contrastive loss: two views of a row find each other among all other rows of the batch.

    L = -(1/2n) sum_i log( exp(s(i, i') / T) / sum_{j != i} exp(s(i, j) / T) )      s: cosine of projected
    features

i' is the other view of row i; the sum runs over the 2n - 1 other views. In nats.

Reference: T. Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR),
ICML 2020, Equation 1, https://arxiv.org/abs/2002.05709
Cost: two forward passes of n rows and a 2n x 2n product.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_app.methods._views import Views
from ray_app.methods.encoders import Encoder
from ray_app.methods.objectives import Objective, TrainBatch


class InBatchContrastive(Objective):
    """Use it to pre-train an encoder without labels.

    The projection head is the objective's own and is left behind with it.

    Args:
        dim: Width of the encoder's pooled features.
        projection: Width of the space in which views are compared.
        temperature: Divides the cosines.
        noise: Standard deviation of the views' Gaussian noise, pixels in 0..1.
        shift: Largest shift of a view, as a share of the image's side.
        rotate: Largest rotation of a view, in degrees.
        erase: Share of a view's pixels set to zero.
        seed: Of the projection's initial weights.
    """

    labels = "none"
    rows_apart = False

    def __init__(
        self,
        *,
        dim: int,
        projection: int = 64,
        temperature: float = 0.5,
        noise: float = 0.15,
        shift: float = 0.125,
        rotate: float = 0.0,
        erase: float = 0.15,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"in_batch_contrastive: temperature must be > 0, got {temperature!r}")
        self.temperature = temperature
        self.views = Views(noise=noise, shift=shift, rotate=rotate, erase=erase)
        # Uninitialised: torch would draw the weights from its global generator.
        self.hidden = nn.utils.skip_init(nn.Linear, dim, dim)
        self.project = nn.utils.skip_init(nn.Linear, dim, projection)
        generator = torch.Generator().manual_seed(seed)
        for layer in (self.hidden, self.project):
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def loss(
        self, model: Encoder, batch: TrainBatch, step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return `loss`, and `matched`: the share of views whose nearest other view is their own."""
        if not isinstance(batch.inputs, Tensor):
            raise TypeError("in_batch_contrastive: makes views of pixels; the inputs are no image tensor")
        n = len(batch.inputs)
        both = torch.cat([self.views(batch.inputs, generator), self.views(batch.inputs, generator)])
        projected = F.normalize(self.project(F.relu(self.hidden(model(both).pooled))), dim=1)
        # A view is not compared with itself.
        cosines = (projected @ projected.T / self.temperature).fill_diagonal_(float("-inf"))
        other = torch.arange(2 * n, device=both.device).roll(n)
        return {
            "loss": F.cross_entropy(cosines, other),
            "matched": (cosines.argmax(1) == other).float().mean().detach(),
        }
