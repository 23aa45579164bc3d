"""Resizing: bilinear, with antialiasing where it shrinks; the shape is not kept unless the sizes say so.

Reference: torch.nn.functional.interpolate, as encoders do it too.
"""

from collections.abc import Sequence

import numpy as np

from ray_app.methods.transforms._image import ImageTransform


class Resize(ImageTransform):
    """Brings images of all sizes to one, so that they travel as one array.

    Args:
        size: Height and width in pixels; one number for both.
    """

    def __init__(self, *, size: int | Sequence[int]) -> None:
        sizes = (size, size) if isinstance(size, int) else tuple(size)
        if len(sizes) != 2 or not all(isinstance(side, int) and 1 <= side <= 4096 for side in sizes):
            raise ValueError(f"resize: size must be one or two numbers of pixels in 1..4096, got {size!r}")
        self.size = sizes

    def _change(self, image: np.ndarray, row_id: str) -> np.ndarray:
        import torch
        from torch.nn.functional import interpolate

        if image.shape[:2] == self.size:
            return image
        pixels = torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy())
        resized = interpolate(pixels, size=self.size, mode="bilinear", antialias=True, align_corners=False)
        return np.moveaxis(resized[0].numpy(), 0, -1)
