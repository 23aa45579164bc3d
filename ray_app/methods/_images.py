"""Encoded images to pixels, apart from the encoders: who only reads rows loads no torch."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

# Pillow warns above this and refuses above twice as many: a small file can unpack to gigabytes.
MAX_PIXELS = 64_000_000


def decode(content: bytes, mode: str | None = None) -> np.ndarray:
    """Return the pixels of a PNG, JPEG or WebP: uint8 [h, w, c].

    Raises:
        ValueError: Not an image, or one with too many pixels.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"image of {image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,} in all"
                )
            grey = image.mode in ("1", "L", "I", "I;16", "LA")
            pixels = np.asarray(image.convert(mode or ("L" if grey else "RGB")))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable image ({error})") from error
    return pixels if pixels.ndim == 3 else pixels[..., None]
