"""Data that scikit-learn bundles: handwritten digits, patches of two photographs, small tables; no network.

    digits         `image` uint8 [8, 8, 1], 0..255 (the set's 0..16 scaled), `label` 0..9
    photo_patches  `image` uint8 [size, size, 3], or [size, size, 1] when grey; no labels
    wine, iris, breast_cancer   `tensor` float32 [d], `label`

Reference: F. Pedregosa et al., "Scikit-learn: Machine Learning in Python", JMLR 2011
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app.data.sources import Read, Source, Unit, digest, ranges
from ray_app.errors import DataError

if TYPE_CHECKING:
    from ray_app.methods import Batch

_TABLES = ("wine", "iris", "breast_cancer")
_KNOWN = ("digits", "photo_patches", *_TABLES)


class Sklearn(Source):
    """Small real data for tests, demonstrations and outliers.

    Args:
        dataset: Which one.
        size: Height and width of a photograph's patches, in pixels.
        stride: Pixels between patches; None: `size`, so that they do not overlap.
        grey: Whether patches are turned to luma.
    """

    def __init__(
        self, *, dataset: str, size: int = 32, stride: int | None = None, grey: bool = False
    ) -> None:
        if dataset not in _KNOWN:
            raise ValueError(f"sklearn: unknown dataset {dataset!r} (known: {', '.join(_KNOWN)})")
        if not 1 <= size <= 427:
            raise ValueError(f"sklearn: size must be 1..427, the height of the photographs, got {size!r}")
        if stride is not None and stride < 1:
            raise ValueError(f"sklearn: stride must be at least 1 pixel, got {stride!r}")
        self.dataset = dataset
        self.size = size
        self.stride = stride or size
        self.grey = grey

    @property
    def columns(self) -> Sequence[str]:
        """What `read` gives beside `row_id`."""
        return [column for column in self._all if column != "row_id"]

    @property
    def labels(self) -> Sequence[str]:
        """Class names, where the set has classes."""
        if self.dataset == "photo_patches":
            return []
        return [str(name) for name in self._bunch.target_names]

    def fingerprint(self) -> str:
        """Return a hash of the name, the options and the values."""
        columns = {key: column.tobytes().hex() for key, column in self._all.items() if column.dtype != object}
        return digest(self.dataset, self.size, self.stride, self.grey, columns)

    def units(self, rows_per_unit: int) -> list[Unit]:
        """Divide the rows."""
        return ranges(self.dataset, len(self._all["row_id"]), rows_per_unit, self.fingerprint())

    def read(self, unit: Unit) -> Read:
        """Return a unit's rows."""
        if unit.stop > len(self._all["row_id"]):
            raise DataError(
                f"sklearn/{self.dataset}: has no row {unit.stop - 1}; was it planned with other options?"
            )
        return Read({key: column[unit.start : unit.stop] for key, column in self._all.items()})

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the data: the worker has the library too."""
        return {key: value for key, value in vars(self).items() if key not in ("_all", "_bunch")}

    @cached_property
    def _bunch(self) -> Any:
        from sklearn import datasets

        return getattr(datasets, f"load_{self.dataset}")()

    @cached_property
    def _all(self) -> "Batch":
        if self.dataset == "photo_patches":
            return self._patches()
        bunch = self._bunch
        values: Batch = {"row_id": _row_ids(f"{self.dataset}#{index}" for index in range(len(bunch.target)))}
        if self.dataset == "digits":
            values["image"] = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
        else:
            values["tensor"] = bunch.data.astype(np.float32)
        return {**values, "label": bunch.target.astype(np.int64)}

    def _patches(self) -> "Batch":
        from sklearn.datasets import load_sample_images

        bunch = load_sample_images()
        patches: list[np.ndarray] = []
        row_ids: list[str] = []
        for file, photo in zip(bunch.filenames, bunch.images, strict=True):
            name = str(file).replace("\\", "/").rpartition("/")[2]
            for top in range(0, photo.shape[0] - self.size + 1, self.stride):
                for left in range(0, photo.shape[1] - self.size + 1, self.stride):
                    patches.append(photo[top : top + self.size, left : left + self.size])
                    row_ids.append(f"{name}#{top},{left},{self.size}")
        images = np.stack(patches)
        if self.grey:
            images = np.round(images @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
        return {"row_id": _row_ids(row_ids), "image": images}


def _row_ids(names: Any) -> np.ndarray:
    return np.array(list(names), dtype=object)
