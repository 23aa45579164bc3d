"""Random views of images, drawn on the images' device: what augmentation and contrastive objectives share."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Views:
    """Draws a new view of each image.

    Args:
        noise: Standard deviation of Gaussian noise, pixels in 0..1.
        shift: Largest shift, as a share of the side.
        rotate: Largest rotation, in degrees.
        erase: Share of pixels set to zero.
    """

    noise: float = 0.0
    shift: float = 0.0
    rotate: float = 0.0
    erase: float = 0.0

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Return float32 0..1 [n, c, h, w]; zeros come in where an image moved away.

        Args:
            pixels: uint8 0..255 or float 0..1 [n, c, h, w].
            generator: On the CPU, so that every device draws the same.
        """
        images = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator).to(images.device)

        n = len(images)
        if self.shift or self.rotate:
            # Coordinates run from -1 to 1, so a share of the side counts twice.
            moves = (uniform(n, 2) * 2 - 1) * self.shift * 2
            angles = (uniform(n) * 2 - 1) * math.radians(self.rotate)
            cos, sin = angles.cos(), angles.sin()
            matrices = torch.stack(
                [torch.stack([cos, -sin, moves[:, 0]], 1), torch.stack([sin, cos, moves[:, 1]], 1)], 1
            )
            grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
            images = F.grid_sample(images, grid, align_corners=False)
        if self.erase:
            images = images * (uniform(n, 1, *images.shape[2:]) >= self.erase)
        if self.noise:
            draws = torch.randn(images.shape, generator=generator).to(images.device)
            images = (images + self.noise * draws).clamp(0, 1)
        return images
