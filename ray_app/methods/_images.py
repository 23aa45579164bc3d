"""Encoded images to pixels, apart from the encoders: who only reads rows loads no torch."""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

# Pillow warns above this and refuses above twice as many: a small file can unpack to gigabytes.
MAX_PIXELS = 64_000_000
_GREY = ("1", "L", "I", "LA", "La")
_ORIENTATION = 0x0112
# Orientations from here on exchange height and width.
_ON_ITS_SIDE = 5
# What Pillow's decoders raise where a file is damaged, each its own.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode(content: bytes, mode: str | None = None, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """Return the pixels of a PNG, JPEG or WebP, upright as its camera meant them: uint8 [h, w, c].

    16-bit grey keeps its upper 8 bits; of an animation it is the first picture.

    Args:
        content: The file.
        mode: "L" or "RGB"; None: grey stays grey, all else becomes RGB.
        at_least: h, w: a JPEG may come at a half, a quarter or an eighth of its size, which is faster, as
            long as neither side is smaller than this. None: at its own size.

    Raises:
        ValueError: Not an image, or one with no or too many pixels.
    """
    # What Pillow warns of is refused here, or was somebody else's sloppiness.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content)) as image:
                _check_size(image)
                pixels = _pixels(_upright(image, at_least), mode)
        except _RefusedError as error:
            raise ValueError(str(error)) from None
        except _DAMAGED as error:
            raise ValueError(f"not a readable image ({_said(error)})") from error
    return pixels if pixels.ndim == 3 else pixels[..., None]


class _RefusedError(Exception):
    """An image that can be read, and is not wanted."""


def _check_size(image: Image.Image) -> None:
    if not 0 < image.width * image.height <= MAX_PIXELS:
        raise _RefusedError(
            f"image of {image.width} x {image.height} pixels; expected 1 to {MAX_PIXELS:,} in all"
        )


def _upright(image: Image.Image, at_least: tuple[int, int] | None) -> Image.Image:
    turned = image.getexif().get(_ORIENTATION, 1)
    if at_least is not None and image.format in ("JPEG", "MPO"):
        height, width = at_least if turned < _ON_ITS_SIDE else at_least[::-1]
        image.draft(None, (width, height))
    return image if turned == 1 else ImageOps.exif_transpose(image)


def _pixels(image: Image.Image, mode: str | None) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow's own conversion cuts all above 255.
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(grey)
    elif image.mode == "F":
        raise _RefusedError("image with floating-point pixels; expected 8 or 16 bits")
    wanted = mode or ("L" if image.mode in _GREY else "RGB")
    return np.asarray(image if image.mode == wanted else image.convert(wanted))


def _said(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
