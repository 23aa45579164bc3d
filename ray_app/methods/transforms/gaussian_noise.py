"""Gaussian noise: every pixel and channel is moved by chance.

    x' = clip(x + std * e, 0, 1),   e ~ N(0, 1) each, pixels in 0..1

Reference: D. Hendrycks, T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261
"""

import numpy as np

from ray_app.methods.transforms._image import RandomImageTransform


class GaussianNoise(RandomImageTransform):
    """A bad sensor, or little light.

    Args:
        std: Standard deviation in pixel units (0..1).
        seed: Of the noise, with the row's id.
    """

    def __init__(self, *, std: float = 0.1, seed: int = 0) -> None:
        super().__init__(seed=seed)
        if not std >= 0:
            raise ValueError(f"gaussian_noise: std must be >= 0, in pixels of 0..1, got {std!r}; try 0.1")
        self.std = std

    def _change(self, image: np.ndarray, row_id: str) -> np.ndarray:
        return image + self.std * self._rng(row_id).standard_normal(image.shape, dtype=np.float32)
