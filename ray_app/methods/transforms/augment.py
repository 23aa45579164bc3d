"""Augmentation: rows changed by chance in ways that leave their meaning.

Text, for each word: left out, exchanged with the next, or mistyped (two letters exchanged, one left out, one
doubled), each with its own probability; one word always stays. Images: mirrored left to right; cropped to a
share of the area, evenly drawn from crop..1, at an even place, and resized back; brightness, contrast and
saturation each multiplied by a factor evenly drawn from 1 - jitter..1 + jitter.

Reference: J. Wei, K. Zou, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text
    Classification Tasks", EMNLP 2019, https://arxiv.org/abs/1901.11196
Cost: O(words) or O(pixels).
"""

import re
from typing import TYPE_CHECKING

import numpy as np

from ray_app.methods.transforms import Transform
from ray_app.methods.transforms._image import RandomImageTransform
from ray_app.methods.transforms._text import TextTransform, seeded
from ray_app.methods.transforms.resize import Resize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray_app.methods import Batch

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_WORD = re.compile(r"\S+")


class Augment(Transform):
    """More rows from few, or a test of how little a model is shaken; give options of text or of images.

    Args:
        delete: Text: probability that a word goes.
        swap: Text: probability that a word changes places with the next.
        typo: Text: probability that a word is mistyped.
        flip: Images: probability of mirroring.
        crop: Images: least share of the area that is kept, in 0..1; 1: no cropping.
        jitter: Images: how far from 1 the factors of brightness, contrast and saturation go, in 0..1.
        column: The column with the texts; images are always in `image`.
        seed: The same seed does the same to the same row, wherever it is.
    """

    columns: "Sequence[str]"  # type: ignore[misc]  # it depends on the options here

    def __init__(
        self,
        *,
        delete: float = 0.0,
        swap: float = 0.0,
        typo: float = 0.0,
        flip: float = 0.0,
        crop: float = 1.0,
        jitter: float = 0.0,
        column: str = "text",
        seed: int = 0,
    ) -> None:
        of_text, of_images = {"delete": delete, "swap": swap, "typo": typo}, {"flip": flip, "jitter": jitter}
        for name, value in {**of_text, **of_images}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"augment: {name} must be in 0..1, got {value!r}; try 0.1")
        if not 0 < crop <= 1:
            raise ValueError(f"augment: crop must be a share of the area in 0..1, above 0, got {crop!r}")
        text, images = any(of_text.values()), any(of_images.values()) or crop < 1
        if text == images:
            given = "both" if text else "neither"
            raise ValueError(
                f"augment: options of {given} were given; give those of text (delete, swap, typo) or of "
                "images (flip, crop, jitter)"
            )
        self._change: Transform = (
            _Text(delete=delete, swap=swap, typo=typo, column=column, seed=seed)
            if text
            else _Image(flip=flip, crop=crop, jitter=jitter, seed=seed)
        )
        self.columns = self._change.columns

    def __call__(self, batch: "Batch") -> "Batch":
        """Return a batch whose texts or images are changed.

        Raises:
            ValueError: A row cannot be read; the message names it.
        """
        return self._change(batch)


class _Text(TextTransform):
    def __init__(self, *, delete: float, swap: float, typo: float, column: str, seed: int) -> None:
        super().__init__(column=column)
        self.columns = (column, "row_id")
        self.delete = delete
        self.swap = swap
        self.typo = typo
        self.seed = seed

    def _change(self, text: str, row_id: str) -> str:
        words = [match.group() for match in _WORD.finditer(text)]
        if not words:
            return text
        rng = seeded("Augment", self.seed, row_id)
        # One row of chances a word and kind, drawn at once: what one word meets does not move the others'.
        swapped, typed, gone = rng.random((3, len(words)))
        for place in np.flatnonzero(swapped[:-1] < self.swap).tolist():
            words[place], words[place + 1] = words[place + 1], words[place]
        for place in np.flatnonzero(typed < self.typo).tolist():
            words[place] = _mistyped(words[place], rng)
        stays = gone >= self.delete
        stays[int(gone.argmax())] = True
        return " ".join(word for word, stay in zip(words, stays.tolist(), strict=True) if stay)


class _Image(RandomImageTransform):
    def __init__(self, *, flip: float, crop: float, jitter: float, seed: int) -> None:
        super().__init__(seed=seed)
        self.flip = flip
        self.crop = crop
        self.jitter = jitter

    def _change(self, image: np.ndarray, row_id: str) -> np.ndarray:
        rng = self._rng(row_id)
        mirrored, area, top, left = rng.random(4)
        brightness, contrast, saturation = 1 + self.jitter * rng.uniform(-1, 1, 3).astype(np.float32)
        if mirrored < self.flip:
            image = image[:, ::-1]
        if self.crop < 1:
            image = _cropped(image, self.crop + (1 - self.crop) * area, top, left)
        if self.jitter:
            image = np.clip(image * brightness, 0, 1)
            grey = image @ _LUMA if image.shape[-1] == 3 else image[..., 0]
            image = np.clip(grey.mean() + contrast * (image - grey.mean()), 0, 1)
            grey = image @ _LUMA if image.shape[-1] == 3 else image[..., 0]
            image = grey[..., None] + saturation * (image - grey[..., None])
        return image


def _mistyped(word: str, rng: np.random.Generator) -> str:
    place, kind = int(rng.integers(len(word))), int(rng.integers(3))
    if kind == 0 and len(word) > 1:
        place = min(place, len(word) - 2)
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if kind == 1 and len(word) > 1:
        return word[:place] + word[place + 1 :]
    return word[: place + 1] + word[place:]


def _cropped(image: np.ndarray, area: float, top: float, left: float) -> np.ndarray:
    height, width = image.shape[:2]
    h, w = (max(1, round(side * area**0.5)) for side in (height, width))
    y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
    part = image[y : y + h, x : x + w]
    return Resize(size=(height, width))._change(part, "")
