"""What image transforms share: one image at a time in 0..1, each with its own source of chance."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ray_app.methods.transforms import Transform

if TYPE_CHECKING:
    from ray_app.methods import Batch


class ImageTransform(Transform):
    """Changes each row of the column `image` by itself.

    The column holds arrays [h, w], [h, w, 1] or [h, w, 3], uint8 0..255 or float 0..1, or encoded bytes. A
    row keeps its type and number of axes; encoded ones become uint8.
    """

    columns: ClassVar[Sequence[str]] = ("image",)

    def __call__(self, batch: "Batch") -> "Batch":
        """Return a batch whose images are changed.

        Raises:
            ValueError: A row cannot be read; the message names it.
        """
        images = [self._one(value, batch, row) for row, value in enumerate(batch["image"])]
        return {**batch, "image": stacked(images, like=batch["image"])}

    @abstractmethod
    def _change(self, image: np.ndarray, row_id: str) -> np.ndarray:
        """Return float32 [h', w', c] from float32 0..1 [h, w, c]; what lies outside of 0..1 is clipped."""

    def _one(self, value: Any, batch: "Batch", row: int) -> np.ndarray:
        try:
            pixels = _decoded(value)
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from error
        scale = 255.0 if pixels.dtype == np.uint8 else 1.0
        image = pixels.astype(np.float32) / scale
        image = image[..., None] if image.ndim == 2 else image
        row_id = str(batch["row_id"][row]) if "row_id" in batch else str(row)
        changed = np.clip(self._change(image, row_id), 0, 1) * scale
        changed = changed[..., 0] if pixels.ndim == 2 else changed
        return np.rint(changed).astype(np.uint8) if pixels.dtype == np.uint8 else changed.astype(pixels.dtype)


class RandomImageTransform(ImageTransform):
    """Changes images by chance, drawn from its seed and the row's `row_id`.

    Args:
        seed: The same seed does the same to the same row, wherever it is.
    """

    columns = ("image", "row_id")

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def _rng(self, row_id: str) -> np.random.Generator:
        # The class's name too: two transforms of one seed must not draw alike.
        content = f"{type(self).__name__}\0{self.seed}\0{row_id}".encode()
        return np.random.default_rng(
            int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "little")
        )


def stacked(images: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    """Return [n, ...] where all have one shape and type, an object array otherwise."""
    if images and len({(image.shape, image.dtype) for image in images}) == 1:
        return np.stack(images)
    if not images:
        return like[:0].copy()
    ragged = np.empty(len(images), dtype=object)
    ragged[:] = images
    return ragged


def _decoded(value: Any) -> np.ndarray:
    if isinstance(value, (bytes, bytearray, memoryview)):
        from ray_app.methods._images import decode

        return decode(bytes(value))
    pixels = np.asarray(value)
    if pixels.dtype != np.uint8 and not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"pixels of type {pixels.dtype}; expected uint8 0..255 or float 0..1")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (1, 3)):
        raise ValueError(f"image of shape {pixels.shape}; expected [h, w], [h, w, 1] or [h, w, 3]")
    return pixels
