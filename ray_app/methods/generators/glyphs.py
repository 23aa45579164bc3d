"""Generated glyphs: letters and digits, turned, shifted, crossed out and noisy, with their class.

A character in Pillow's built-in font is drawn large, turned by up to `degrees`, shifted, made small, crossed
by a clutter line, and covered with Gaussian noise. Bright on dark.

Reference: none; the recipe of a small stand-in for downloaded letters, as in tests of transfer from one
    alphabet to another.
"""

import string
from typing import TYPE_CHECKING

import numpy as np

from ray_app.methods.generators import Generator

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

# Drawn this much larger first: turning and shifting by parts of a pixel then look smooth.
_LARGER = 4


class Glyphs(Generator):
    """A labelled picture task of any size, without a download.

    Args:
        alphabet: One character a class, in the order of the labels.
        size: Height and width in pixels.
        noise: Standard deviation of the noise, in pixels of 0..1.
        degrees: Glyphs are turned by up to this, either way.
        shift: And moved by up to this share of the size, in each direction.
        clutter: Cross each glyph with a line.
    """

    def __init__(
        self,
        *,
        alphabet: str = string.digits,
        size: int = 16,
        noise: float = 0.25,
        degrees: float = 25.0,
        shift: float = 0.12,
        clutter: bool = True,
    ) -> None:
        if not alphabet or len(set(alphabet)) < len(alphabet):
            raise ValueError(f"glyphs: alphabet must be different characters, one a class, got {alphabet!r}")
        if not 8 <= size <= 512:
            raise ValueError(f"glyphs: size must be 8..512 pixels, got {size!r}")
        if not (noise >= 0 and 0 <= degrees <= 180 and 0 <= shift < 1):
            raise ValueError(
                f"glyphs: noise is >= 0, degrees 0..180, shift 0..1; got {noise}, {degrees}, {shift}"
            )
        self.alphabet = alphabet
        self.size = size
        self.noise = noise
        self.degrees = degrees
        self.shift = shift
        self.clutter = clutter
        self.labels = list(alphabet)
        self._font: FreeTypeFont | BitmapFont | None = None

    def row(self, rng: np.random.Generator) -> dict[str, np.ndarray | int | float | str]:
        """Return `image` uint8 [size, size, 1], and its `label` in the order of the alphabet."""
        from PIL import Image, ImageDraw

        label = int(rng.integers(len(self.alphabet)))
        side = self.size * _LARGER
        glyph = self._drawn(self.alphabet[label], side)
        reach = self.shift * side
        # Chance is drawn whatever the options, so that one option changes one thing.
        turn, right, down = rng.uniform(-1, 1, size=3)
        glyph = glyph.rotate(
            turn * self.degrees,
            resample=Image.Resampling.BILINEAR,
            translate=(round(right * reach), round(down * reach)),
        )
        ends = rng.uniform(0, side, size=4)
        if self.clutter:
            ImageDraw.Draw(glyph).line([*ends], fill=170, width=_LARGER)
        small = np.asarray(glyph.resize((self.size, self.size), Image.Resampling.BOX), dtype=np.float64) / 255
        noisy = small + self.noise * rng.standard_normal(small.shape)
        return {"image": np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)[..., None], "label": label}

    def _drawn(self, character: str, side: int) -> "Image":
        from PIL import Image, ImageDraw, ImageFont

        if self._font is None:
            self._font = ImageFont.load_default(size=round(side * 0.8))
        picture = Image.new("L", (side, side))
        ImageDraw.Draw(picture).text((side / 2, side / 2), character, fill=255, font=self._font, anchor="mm")
        return picture
