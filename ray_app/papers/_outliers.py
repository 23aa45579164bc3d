"""Pictures of what a model of things was never meant to see, drawn at random for a paper's run."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from ray_app import registry
from ray_app.data.sources.sklearn import Sklearn
from ray_app.papers._rows import drawn
from ray_app.papers.run import reference_folder

if TYPE_CHECKING:
    from ray_app.methods import Batch

_WINDOW = 64
# Decibels below the loudest sound that are still drawn.
_RANGE = 80.0


def patches(size: int, rows: int, seed: int, *, grey: bool) -> "Batch":
    """Return `image` uint8 [n, size, size, 1 or 3]: crops of scikit-learn's two photographs."""
    source = Sklearn(dataset="photo_patches", size=size, stride=max(8, size // 2), grey=grey)
    (unit,) = source.units(100_000)
    return drawn(source.read(unit).batch, [rows], seed)[0]


def noise(size: int, rows: int, seed: int) -> "Batch":
    """Return `image` uint8 [n, size, size, 3]: generated fields of noise."""
    generator = registry.build("generators", "textures", {"size": size, "kinds": ["noise"]})
    batch: Batch = generator.at(range(rows), seed)
    return batch


def spectrograms(rows: int, seed: int) -> "Batch":
    """Return `image`, grey arrays of unequal sizes: spoken digits of the reference folder, in decibels.

    Raises:
        RunError: The reference folder is not there.
    """
    from scipy.signal import spectrogram

    table = pq.read_table(reference_folder() / "fsdd" / "test.parquet", columns=["audio", "sample_rate"])
    chosen = np.random.default_rng(seed).permutation(len(table))[:rows]
    pictures = np.empty(len(chosen), dtype=object)
    for place, row in enumerate(table.take(chosen).to_pylist()):
        wave = np.asarray(row["audio"], dtype=np.float64)
        _, _, power = spectrogram(wave, fs=row["sample_rate"], nperseg=_WINDOW)
        decibels = 10 * np.log10(np.maximum(power / max(power.max(), 1e-12), 10 ** (-_RANGE / 10)))
        # Low tones at the bottom, as spectrograms are drawn.
        pictures[place] = np.rint((decibels[::-1] / _RANGE + 1) * 255).astype(np.uint8)[..., None]
    return {"image": pictures}
