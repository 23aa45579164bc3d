"""Rotation around the middle of the image; its size stays, corners are filled.

Bilinear; positive angles turn counter-clockwise as the image is seen.

Reference: SciPy's ndimage.rotate.
"""

import numpy as np

from ray_app.methods.transforms._image import RandomImageTransform


class Rotate(RandomImageTransform):
    """A camera held askew.

    Args:
        degrees: The angle.
        random: Draw each row's angle evenly from -degrees..degrees instead.
        fill: What comes in from outside, in pixels of 0..1.
        seed: Of the angles, with the row's id.
    """

    def __init__(
        self, *, degrees: float = 15.0, random: bool = False, fill: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__(seed=seed)
        if not -360 <= degrees <= 360:
            raise ValueError(f"rotate: degrees must be in -360..360, got {degrees!r}")
        if not 0 <= fill <= 1:
            raise ValueError(f"rotate: fill must be a pixel in 0..1, got {fill!r}")
        self.degrees = degrees
        self.random = random
        self.fill = fill

    def _change(self, image: np.ndarray, row_id: str) -> np.ndarray:
        from scipy.ndimage import rotate

        widest = abs(self.degrees)
        angle = self._rng(row_id).uniform(-widest, widest) if self.random else self.degrees
        return rotate(image, angle, axes=(0, 1), reshape=False, order=1, mode="constant", cval=self.fill)
