"""Gaussian blur: each pixel becomes a weighted mean of those around it, in each channel.

    x' = x * g,   g(u, v) ~ exp(-(u^2 + v^2) / (2 sigma^2)); the border is mirrored

Reference: SciPy's ndimage.gaussian_filter.
"""

import numpy as np

from ray_app.methods.transforms._image import ImageTransform


class GaussianBlur(ImageTransform):
    """A lens out of focus.

    Args:
        sigma: Standard deviation of the kernel, in pixels of the image's own grid.
    """

    def __init__(self, *, sigma: float = 1.0) -> None:
        if not sigma >= 0:
            raise ValueError(f"gaussian_blur: sigma must be >= 0, in pixels, got {sigma!r}; try 1.0")
        self.sigma = sigma

    def _change(self, image: np.ndarray, row_id: str) -> np.ndarray:
        from scipy.ndimage import gaussian_filter

        return gaussian_filter(image, sigma=(self.sigma, self.sigma, 0))
