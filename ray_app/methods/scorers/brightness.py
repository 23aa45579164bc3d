"""Brightness: how far an image's mean is from middle grey.

    score = | mean x - 0.5 |       in [0, 0.5], pixels in 0..1

Colour is turned to luma first.

Cost: O(pixels).
"""

import numpy as np

from ray_app.methods.scorers._grey import ImageScorer


class Brightness(ImageScorer):
    """Finds images that are too dark or too bright, without saying which."""

    higher_is_better = False

    def _score(self, grey: np.ndarray) -> float:
        return abs(float(grey.mean()) - 0.5)
