"""Pixels to PNG: image columns then have one type whatever the images' sizes, and every tool reads them."""

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ray_app.data.arrow import objects

if TYPE_CHECKING:
    from ray_app.methods import Batch

# Levels above it gain a few per cent in size for several times the time.
_COMPRESSION = 1


def as_png(batch: "Batch") -> "Batch":
    """Return a batch whose uint8 images of one or three channels are PNG bytes; nothing is lost.

    Other images (floats, more channels) stay as they are.
    """
    column = batch.get("image")
    if column is None or not all(_fits(np.asarray(image)) for image in column):
        return batch
    return {**batch, "image": objects([_png(np.asarray(image)) for image in column])}


def _fits(image: np.ndarray) -> bool:
    return image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] in (1, 3) and image.size > 0


def _png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "PNG", compress_level=_COMPRESSION)
    return content.getvalue()
