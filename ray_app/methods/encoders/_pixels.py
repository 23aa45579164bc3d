"""From what an image column may hold to one tensor of pixels."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ray_app.methods._images import decode
from ray_app.methods.encoders import Inputs, Preparation

if TYPE_CHECKING:
    from ray_app.methods import Batch


class Pixels(Preparation):
    """Images of one size: they are decoded and resized apart from the network, and normalised on its device.

    Args:
        size: Height and width that the network reads.
        channels: 1 (grey) or 3.
    """

    column = "image"

    def __init__(self, size: tuple[int, int], channels: int) -> None:
        self.size = size
        self.channels = channels

    def prepare(self, batch: "Batch") -> "Batch":
        """Return the column `pixels`: uint8 [n, channels, h, w], or float32 0..1.

        Raises:
            ValueError: The column is missing, or a row is no image.
        """
        return {"pixels": to_pixels(batch, self.column, self.size, self.channels).numpy()}

    def collate(self, prepared: "Batch") -> Inputs:
        """Return the pixels as a tensor."""
        pixels = prepared["pixels"]
        # Arrays that came through Arrow are read-only views, which torch shares only with a warning.
        return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())


def to_pixels(batch: "Batch", column: str, size: tuple[int, int], channels: int) -> Tensor:
    """Return uint8 [n, channels, h, w], or float32 0..1 where the column holds floats.

    Args:
        batch: Its column holds arrays [h, w], [h, w, 1] or [h, w, 3] (uint8 0..255 or float 0..1), or encoded
            bytes.
        column: Which column.
        size: h, w of the result; bilinear with antialiasing.
        channels: 1 or 3 of the result; grey is repeated, colour is turned to luma.

    Raises:
        ValueError: No such column, or a row that cannot be read; the message names the row.
    """
    if column not in batch:
        raise ValueError(
            f"no column {column!r} to encode (columns: {', '.join(batch)}); map it with `columns:`"
        )
    values = batch[column]
    if values.dtype != object and values.ndim in (3, 4) and len(values):
        return _fit(_checked(values, "rows"), size, channels)
    rows = [_fit(_decode(value, row, size)[None], size, channels) for row, value in enumerate(values)]
    if not rows:
        return torch.zeros((0, channels, *size), dtype=torch.uint8)
    if len({row.dtype for row in rows}) > 1:
        rows = [row if row.is_floating_point() else row.float() / 255 for row in rows]
    return torch.cat(rows)


def _decode(value: Any, row: int, size: tuple[int, int]) -> np.ndarray:
    try:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return decode(bytes(value), at_least=size)
        return _checked(np.asarray(value), f"row {row}")
    except ValueError as error:
        raise ValueError(f"row {row}: {error}") from error


def _checked(pixels: np.ndarray, what: str) -> np.ndarray:
    if pixels.dtype != np.uint8 and not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"{what}: pixels of type {pixels.dtype}; expected uint8 0..255 or float 0..1")
    return pixels


def _fit(pixels: np.ndarray, size: tuple[int, int], channels: int) -> Tensor:
    """[n, h, w] or [n, h, w, c] to [n, channels, *size]."""
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.shape[-1] not in (1, 3):
        raise ValueError(f"images of shape {pixels.shape[1:]}; expected [h, w], [h, w, 1] or [h, w, 3]")
    # Copied: Ray's arrays are read-only views, which torch cannot share.
    images = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 1)).copy())
    is_bytes = images.dtype == torch.uint8
    images = images.float()
    if images.shape[1] != channels:
        if channels == 1:
            images = (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        else:
            images = images.expand(-1, channels, -1, -1)
    if images.shape[-2:] != size:
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
    if is_bytes:
        return images.round().clamp(0, 255).to(torch.uint8)
    return images.clamp(0, 1)
