"""Inversion: light and dark exchanged.

x' = 1 - x,   pixels in 0..1
"""

import numpy as np

from ray_app.methods.transforms._image import ImageTransform


class Invert(ImageTransform):
    """A negative: the same shapes, yet nothing that a model has seen."""

    def _change(self, image: np.ndarray, row_id: str) -> np.ndarray:
        return 1 - image
