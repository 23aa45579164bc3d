"""What scorers of images share: grey pixels of one row, NaN for a row that cannot be read."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app.methods.scorers import Scorer

if TYPE_CHECKING:
    from ray_app.methods import Batch

_LUMA = np.array([0.299, 0.587, 0.114])


class ImageScorer(Scorer):
    """A number from each image of the column `image` (as image transforms take it)."""

    columns = ("image",)

    def score(self, batch: "Batch") -> np.ndarray:
        """Return float64 [n]; NaN for a row that cannot be read."""
        return np.array([self._one(value) for value in batch["image"]], dtype=np.float64)

    @abstractmethod
    def _score(self, grey: np.ndarray) -> float:
        """Return the score of float64 0..1 [h, w]."""

    def _one(self, value: Any) -> float:
        try:
            grey = _grey(value)
        except ValueError:
            return float("nan")
        return float(self._score(grey)) if grey.size else float("nan")


def _grey(value: Any) -> np.ndarray:
    if isinstance(value, (bytes, bytearray, memoryview)):
        from ray_app.methods._images import decode

        value = decode(bytes(value))
    pixels = np.asarray(value)
    if pixels.dtype == object or pixels.ndim not in (2, 3):
        raise ValueError("no image")
    scale = 255.0 if pixels.dtype == np.uint8 else 1.0
    grey = pixels.astype(np.float64) / scale
    if grey.ndim == 2:
        return grey
    return grey @ _LUMA if grey.shape[-1] == 3 else grey.mean(-1)
