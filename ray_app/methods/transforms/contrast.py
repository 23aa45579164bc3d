"""Contrast: pixels move away from the image's mean, or towards it.

    x' = clip(mean + factor * (x - mean), 0, 1),   mean over all pixels and channels

Reference: D. Hendrycks, T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261
"""

import numpy as np

from ray_app.methods.transforms._image import ImageTransform


class Contrast(ImageTransform):
    """Fog, or glaring light.

    Args:
        factor: Below 1: less contrast; above 1: more.
    """

    def __init__(self, *, factor: float = 0.5) -> None:
        if not factor >= 0:
            raise ValueError(
                f"contrast: factor must be >= 0, got {factor!r}; below 1 flattens, above 1 sharpens"
            )
        self.factor = factor

    def _change(self, image: np.ndarray, row_id: str) -> np.ndarray:
        mean = image.mean(dtype=np.float64)
        return (mean + self.factor * (image - mean)).astype(np.float32)
