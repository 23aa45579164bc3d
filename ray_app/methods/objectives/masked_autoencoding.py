"""Masked autoencoding: hidden patches of an image are told from the rest of it.

    loss = 1/(m p^2 channels) sum_{masked patches} ||D(token) - pixels||^2       pixels in 0..1

One token, or place of the last map, stands for a patch of p x p pixels. A share of patches, drawn anew for
each image, is painted over with one learned colour; D is linear.

Reference: K. He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022,
    https://arxiv.org/abs/2111.06377; Z. Xie et al., "SimMIM", CVPR 2022, https://arxiv.org/abs/2111.09886
Departure: from the first, the loss on masked patches; from the second, an encoder that sees painted patches
    (any network can be trained so) and a linear decoder. Text has an objective of its own.
Cost: one forward pass, and a product [patches, d] by [d, p^2 channels].
"""

import math

import torch
from torch import Tensor, nn

from ray_app.methods.encoders import Encoder
from ray_app.methods.objectives import Objective, TrainBatch


class MaskedAutoencoding(Objective):
    """Use it to pre-train, or pre-train further, an image network without labels.

    The decoder is the objective's own and is left behind with it.

    Args:
        mask_ratio: Share of patches that are painted over; 0.75 suits large images, less small ones.
        seed: Of the decoder's initial weights.
    """

    labels = "none"

    def __init__(self, *, mask_ratio: float = 0.75, seed: int = 0) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ValueError(
                f"masked_autoencoding: mask_ratio must lie between 0 and 1, got {mask_ratio!r}; try 0.75"
            )
        self.mask_ratio = mask_ratio
        self.seed = seed
        self.colour = nn.Parameter(torch.zeros(0))
        self.decode: nn.Linear | None = None
        self.patch = 0

    def begin(self, model: Encoder, rows: TrainBatch) -> None:
        """Make a decoder as wide as the model's tokens and patches are; one that is so already is kept.

        Raises:
            ValueError: The tokens are no grid of square patches.
        """
        with torch.no_grad():
            model.eval()
            first = _pixels(rows.inputs)[:1].to(model.device)
            tokens = model(first, {"tokens"}).tokens
        _, channels, height, width = first.shape
        if tokens.shape[1] < 2:
            raise ValueError(
                f"masked_autoencoding: all of {height} x {width} pixels is one token, so there is no rest "
                "to tell it from; choose a larger image_size or a finer output_stride"
            )
        self.patch = round(math.sqrt(height * width / tokens.shape[1]))
        if (height // self.patch) * (width // self.patch) != tokens.shape[1] or (
            height % self.patch or width % self.patch
        ):
            raise ValueError(
                f"masked_autoencoding: {tokens.shape[1]} tokens do not divide {height} x {width} pixels into "
                "squares; choose another image_size"
            )
        width, pixels = tokens.shape[2], channels * self.patch**2
        if self.decode is not None and self.decode.weight.shape == (pixels, width):
            return
        self.decode = nn.utils.skip_init(nn.Linear, width, pixels)
        generator = torch.Generator().manual_seed(self.seed)
        bound = 1 / math.sqrt(tokens.shape[2])
        for parameter in self.decode.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        self.colour = nn.Parameter(torch.full((channels, 1, 1), 0.5))
        self.to(model.device)

    def loss(
        self, model: Encoder, batch: TrainBatch, step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return `loss`: the mean squared error of masked pixels, weighted by sample_weight.

        Raises:
            ValueError: The inputs are no pixels, or `begin` was not called.
        """
        if self.decode is None:
            raise ValueError("masked_autoencoding: call begin() first; it makes the decoder")
        pixels = _pixels(batch.inputs)
        patches = self._patches(pixels)
        n, t, _ = patches.shape
        masked = max(1, min(t - 1, round(self.mask_ratio * t)))
        order = torch.rand(n, t, generator=generator).argsort(1)
        hidden = (order < masked).to(pixels.device)  # a random permutation: exactly so many in each row
        rows, columns = pixels.shape[2] // self.patch, pixels.shape[3] // self.patch
        grid = hidden.view(n, 1, rows, columns)
        over = grid.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        painted = torch.where(over, self.colour, pixels)
        told = self.decode(model(painted, {"tokens"}).tokens)
        errors = ((told.float() - patches).square().mean(2) * hidden).sum(1) / masked
        if batch.sample_weight is None:
            return {"loss": errors.mean()}
        weight = batch.sample_weight
        return {"loss": (errors * weight).sum() / weight.sum().clamp(min=torch.finfo(errors.dtype).tiny)}

    def _patches(self, pixels: Tensor) -> Tensor:
        """[n, channels, h, w] to [n, t, channels p^2], in the tokens' order: row by row."""
        return nn.functional.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)


def _pixels(inputs: object) -> Tensor:
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        raise ValueError("masked_autoencoding: masks patches of pixels [n, c, h, w]; the inputs are none")
    return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
