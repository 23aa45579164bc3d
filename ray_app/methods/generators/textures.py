"""Generated textures: pictures of no thing, for what a model of things must find odd.

    gratings       sine waves of one direction and wavelength
    checkerboards  two colours in squares
    noise          a field of random pixels, smoothed by a random amount
    blobs          soft round spots

Colours, sizes and directions are drawn for each row.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ray_app.methods.generators import Generator


class Textures(Generator):
    """Far-off inputs of any size, without a download.

    Args:
        size: Height and width in pixels.
        channels: 1 (grey) or 3.
        kinds: Which of the above.
    """

    def __init__(self, *, size: int = 32, channels: int = 3, kinds: Sequence[str] | None = None) -> None:
        if not 4 <= size <= 4096:
            raise ValueError(f"textures: size must be 4..4096 pixels, got {size!r}")
        if channels not in (1, 3):
            raise ValueError(f"textures: channels must be 1 or 3, got {channels!r}")
        kinds = list(_KINDS) if kinds is None else list(kinds)
        if unknown := [kind for kind in kinds if kind not in _KINDS]:
            raise ValueError(f"textures: unknown kind {unknown[0]!r}; known: {', '.join(_KINDS)}")
        if not kinds:
            raise ValueError(f"textures: kinds is empty; name some of {', '.join(_KINDS)}")
        self.size = size
        self.channels = channels
        self.kinds = kinds

    def row(self, rng: np.random.Generator) -> dict[str, np.ndarray | int | float | str]:
        """Return `image` uint8 [size, size, channels], and its `kind`."""
        kind = self.kinds[int(rng.integers(len(self.kinds)))]
        level = _KINDS[kind](self.size, rng)
        low, high = rng.random((2, self.channels))
        # Dark and bright end at least this far apart in the mean, or the texture could not be seen.
        if abs(float((high - low).mean())) < 0.3:
            low, high = low * 0.3, 0.7 + high * 0.3
        image = low + (high - low) * level[..., None]
        return {"image": np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), "kind": kind}


def _gratings(size: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    angle, waves, phase = rng.uniform(0, np.pi), rng.uniform(2, size / 4), rng.uniform(0, 2 * np.pi)
    return 0.5 + 0.5 * np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + phase)


def _checkerboards(size: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    side = int(rng.integers(1, max(2, size // 4)))
    down, right = rng.integers(2 * side, size=2)
    return (((y + down) // side + (x + right) // side) % 2).astype(np.float64)


def _noise(size: int, rng: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(rng.random((size, size)), rng.uniform(0, size / 16), mode="wrap")
    return (field - field.min()) / max(float(np.ptp(field)), 1e-12)


def _blobs(size: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    level = np.zeros((size, size))
    for _ in range(int(rng.integers(2, 8))):
        centre_y, centre_x = rng.random(2)
        radius = rng.uniform(0.05, 0.25)
        level = np.maximum(level, np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / (2 * radius**2)))
    return level


_KINDS: Mapping[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "gratings": _gratings,
    "checkerboards": _checkerboards,
    "noise": _noise,
    "blobs": _blobs,
}
