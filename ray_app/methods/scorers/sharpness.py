"""Sharpness: how much neighbouring pixels differ.

    score = var over pixels of L,   L = sum of the four neighbours - 4 x       in [0, 16], pixels in 0..1

The border has no neighbours and is left out. Colour is turned to luma first.

Reference: J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study",
    ICPR 2000 (the variance of the Laplacian).
Cost: O(pixels).
"""

import numpy as np

from ray_app.methods.scorers._grey import ImageScorer


class Sharpness(ImageScorer):
    """Finds blurred and empty images; noise counts as sharp. Images under 3 x 3 pixels score 0."""

    higher_is_better = True

    def _score(self, grey: np.ndarray) -> float:
        around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        laplacian = around - 4 * grey[1:-1, 1:-1]
        return float(laplacian.var()) if laplacian.size else 0.0
