"""Image files in folders; the folder directly above a file, counted from the root, is its class.

`image` holds the file's bytes (the engine decodes them and rejects what is no image), `label` the class'
number in the sorted names. Files that lie in the root itself have no label.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ray_app.data.sources import Read, Rejected, Source, Unit, digest, unit_id
from ray_app.data.sources._files import File, expand, find
from ray_app.errors import DataError

if TYPE_CHECKING:
    from ray_app.methods import Batch

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Images(Source):
    """Reads `root/class/file.png`, or `root/file.png` without labels.

    Args:
        path: The root folder.
        classes: Folder names in the order of their numbers; None: all, sorted.
    """

    def __init__(self, *, path: str, classes: Sequence[str] | None = None) -> None:
        if not isinstance(path, str) or not path:
            raise ValueError(f"images: path must be a folder, got {path!r}")
        self.path = expand(path)
        self._classes = list(classes) if classes is not None else None

    @property
    def columns(self) -> Sequence[str]:
        """`image`, and `label` where there are class folders."""
        return ["image", "label"] if self.labels else ["image"]

    @cached_property
    def labels(self) -> Sequence[str]:
        """The class folders' names."""
        found = sorted({_class(file) for file in self._all if _class(file)})
        if self._classes is None:
            return found
        if missing := [name for name in self._classes if name not in found]:
            raise DataError(
                f"{self.path}: no images in a folder {missing[0]!r} (folders: {', '.join(found) or 'none'})"
            )
        return self._classes

    def fingerprint(self) -> str:
        """Return a hash of the files' names, sizes and times; their content is not read."""
        return digest(self.labels, _stamps(self._files))

    def units(self, rows_per_unit: int) -> list[Unit]:
        """Divide the sorted files."""
        # The count is part of the name: a file more or less shifts the rows of every unit after it.
        files = self._files
        return [
            Unit(
                unit_id("images", start, start + len(part)),
                None,
                start,
                start + len(part),
                digest(_stamps(part)),
            )
            for start in range(0, len(files), rows_per_unit)
            for part in [files[start : start + rows_per_unit]]
        ]

    def read(self, unit: Unit) -> Read:
        """Return a unit's files as bytes."""
        files = self._files[unit.start : unit.stop]
        if len(files) != len(unit) or digest(_stamps(files)) != unit.fingerprint:
            raise DataError(f"{self.path}: its files changed since the run was planned; run it again")
        numbers = {name: number for number, name in enumerate(self.labels)}
        good: list[File] = []
        contents: list[bytes] = []
        rejected: list[Rejected] = []
        for file in files:
            try:
                contents.append(file.path.read_bytes())
                good.append(file)
            except OSError as error:
                rejected.append(Rejected(file.name, f"cannot be read ({error.strerror})"))
        image = np.empty(len(contents), dtype=object)
        image[:] = contents
        batch: Batch = {"row_id": np.array([file.name for file in good], dtype=object), "image": image}
        if self.labels:
            batch["label"] = np.array([numbers[_class(file)] for file in good], dtype=np.int64)
        return Read(batch, rejected)

    @cached_property
    def _all(self) -> list[File]:
        return find(self.path, _SUFFIXES)

    @cached_property
    def _files(self) -> list[File]:
        if not self.labels:
            return self._all
        wanted = set(self.labels)
        return [file for file in self._all if _class(file) in wanted]


def _class(file: File) -> str:
    return file.name.partition("/")[0] if "/" in file.name else ""


def _stamps(files: Sequence[File]) -> list[tuple[str, int, int]]:
    try:
        return [(file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.path.stat()]]
    except OSError as error:
        raise DataError(f"{error.filename}: is gone since the folder was listed; run it again") from error
