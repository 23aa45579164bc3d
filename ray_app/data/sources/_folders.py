"""Files in class folders as rows: each file's bytes, named and labelled by where it lies."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import ClassVar

import numpy as np

from ray_app.data.arrow import objects
from ray_app.data.sources import UNIT_BYTES, Read, Rejected, Source, Unit, digest, unit_id
from ray_app.data.sources._files import File, check_name, find
from ray_app.errors import DataError
from ray_app.storage import Place

# A store answers one small request in tens of milliseconds, and many at once in the same time.
_AT_ONCE = 16


class Folders(Source):
    """Reads `root/class/file`, or `root/file` without labels.

    Args:
        path: The root folder, here or in a store (`s3://…`).
        classes: Folder names in the order of their numbers; None: all, sorted.
    """

    kind: ClassVar[str]
    """What the files are, for messages; also the source's name."""
    column: ClassVar[str]
    """Which column holds their bytes."""
    suffixes: ClassVar[tuple[str, ...]]
    max_bytes = 2**28
    """Larger files are rejected unread."""

    def __init__(self, *, path: str, classes: Sequence[str] | None = None) -> None:
        if not isinstance(path, str) or not path:
            raise ValueError(f"{self.kind}: path must be a folder, got {path!r}")
        self.path = Place.of(path).uri
        self._classes = list(classes) if classes is not None else None

    @property
    def columns(self) -> Sequence[str]:
        """The files' bytes, and `label` where there are class folders."""
        return [self.column, "label"] if self.labels else [self.column]

    @cached_property
    def labels(self) -> Sequence[str]:
        """The class folders' names."""
        found = sorted({_class(file) for file in self._all if _class(file)})
        if self._classes is None:
            return found
        if missing := [name for name in self._classes if name not in found]:
            raise DataError(
                f"{self.path}: no {self.kind} in a folder {missing[0]!r}"
                f" (folders: {', '.join(found) or 'none'})"
            )
        return self._classes

    def fingerprint(self) -> str:
        """Return a hash of the files' names, sizes and times; their content is not read."""
        return digest(self.labels, [file.stamp for file in self._files])

    def units(self, rows_per_unit: int) -> list[Unit]:
        """Divide the sorted files."""
        # The count is part of the name: a file more or less shifts the rows of every unit after it.
        found: list[Unit] = []
        start = size = 0
        for stop, file in enumerate(self._files, 1):
            size += max(0, file.size)
            after = self._files[stop].size if stop < len(self._files) else 0
            if stop - start == rows_per_unit or stop == len(self._files) or size + after > UNIT_BYTES:
                own = digest([file.stamp for file in self._files[start:stop]])
                found.append(Unit(unit_id(self.kind, start, stop), None, start, stop, own))
                start, size = stop, 0
        return found

    def read(self, unit: Unit) -> Read:
        """Return a unit's files as bytes."""
        files = self._files[unit.start : unit.stop]
        if len(files) != len(unit) or digest([file.stamp for file in files]) != unit.fingerprint:
            raise DataError(f"{self.path}: its files changed since the run was planned; run it again")
        good: list[File] = []
        contents: list[bytes] = []
        rejected: list[Rejected] = []
        for file, content in zip(files, self._contents(files), strict=True):
            if isinstance(content, DataError):
                rejected.append(Rejected(file.name, str(content)))
                continue
            contents.append(content)
            good.append(file)
        batch = {"row_id": objects([file.name for file in good]), self.column: objects(contents)}
        if self.labels:
            numbers = {name: number for number, name in enumerate(self.labels)}
            batch["label"] = np.array([numbers[_class(file)] for file in good], dtype=np.int64)
        return Read(batch, rejected)

    def _contents(self, files: Sequence[File]) -> list[bytes | DataError]:
        if Place(self.path).is_local:
            return [_content(file, self.max_bytes) for file in files]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda file: _content(file, self.max_bytes), files))

    @cached_property
    def _all(self) -> list[File]:
        found = find(self.path, self.suffixes, any_name=True)
        # A path to a file is that file, whatever its name; a typing error would end as a rejected row.
        if not found[0].name.lower().endswith(self.suffixes):
            raise DataError(
                f"{self.path}: is a file that ends in none of {', '.join(self.suffixes)};"
                f" give a folder of {self.kind}"
            )
        return found

    @cached_property
    def _files(self) -> list[File]:
        if not self.labels:
            return self._all
        wanted = set(self.labels)
        return [file for file in self._all if _class(file) in wanted]


def _class(file: File) -> str:
    return file.name.partition("/")[0] if "/" in file.name else ""


def _content(file: File, max_bytes: int) -> bytes | DataError:
    if file.place.is_local and file.size >= 0:
        file.check()
    if file.size > max_bytes:
        return DataError(f"file of {file.size:,} bytes; the limit is {max_bytes:,}")
    try:
        check_name(file)
        content = file.place.read_bytes()
    except DataError as error:
        return error
    if len(content) != file.size:
        raise DataError(f"{file.place}: changed since the run was planned; run it again")
    return content
