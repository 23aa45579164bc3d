"""Contrast: the standard deviation of an image's pixels.

    score = sqrt(mean (x - mean x)^2)       in [0, 0.5], pixels in 0..1

Colour is turned to luma first. Known as RMS contrast.

Reference: E. Peli, "Contrast in complex images", JOSA A 1990.
Cost: O(pixels).
"""

import numpy as np

from ray_app.methods.scorers._grey import ImageScorer


class Contrast(ImageScorer):
    """Finds empty, foggy and over-exposed images."""

    higher_is_better = True

    def _score(self, grey: np.ndarray) -> float:
        return float(grey.std())
