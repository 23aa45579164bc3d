"""A dataset of the Hugging Face hub, or one in a local folder that its `datasets` library reads.

Columns are those of the dataset; what it calls an image or a sound is decoded by the engine, and its class
names are the labels. A row is called `<dataset>/<split>#<index>`.

Reference: Q. Lhoest et al., "Datasets: A Community Library for Natural Language Processing", EMNLP 2021
    (demonstrations), https://arxiv.org/abs/2109.02846
Cost: the library keeps a copy on each machine's disk (HF_HOME) and maps it into memory; rows are read by
    index.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ray_app.data.arrow import objects
from ray_app.data.sources import Read, Rejected, Source, Unit, digest, ranges
from ray_app.data.sources._tables import rows_of
from ray_app.errors import DataError

# Up to this size all rows are hashed for the fingerprint; above, the first and last ones.
_HASHED_BYTES = 64 * 2**20
_ENDS = 256


class Hub(Source):
    """Reads a dataset by name, from a folder that `save_to_disk` wrote, or from a folder of files.

    Args:
        dataset: Its name (`stanfordnlp/imdb`), or a folder.
        split: Which of its splits.
        config: Which of its configurations, where it has several.
        revision: Which version on the hub: a branch, tag or commit.
        columns: Those to read; None: all.
    """

    def __init__(
        self,
        *,
        dataset: str,
        split: str = "train",
        config: str | None = None,
        revision: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(dataset, str) or not dataset:
            raise ValueError(f"hub: dataset must be a name or a folder, got {dataset!r}")
        if columns is not None and (isinstance(columns, str) or not all(isinstance(c, str) for c in columns)):
            raise ValueError(f"hub: columns must be a list of names, got {columns!r}")
        path = Path(dataset).expanduser()
        self.dataset = str(path.absolute()) if path.is_dir() else dataset
        self.split, self.config, self.revision = split, config, revision
        self._chosen = list(columns) if columns is not None else None

    @property
    def columns(self) -> Sequence[str]:
        """The dataset's columns."""
        return [name for name in self._data.column_names if name != "row_id"]

    @property
    def labels(self) -> Sequence[str]:
        """The class names of the column `label`, or of the only one that has any."""
        named = {name: f.names for name, f in self._data.features.items() if type(f).__name__ == "ClassLabel"}
        return list(named.get("label") or (next(iter(named.values())) if len(named) == 1 else []))

    def fingerprint(self) -> str:
        """Return a hash of the columns' types and the rows: of all, or of the first and last ones."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        data = self._data
        state = hashlib.sha256(digest(self.split, str(data.features), len(data)).encode())
        small = data.data.nbytes <= _HASHED_BYTES
        parts = [range(len(data))] if small else [range(_ENDS), range(len(data) - _ENDS, len(data))]
        for part in parts:
            for start in range(part.start, part.stop, _ENDS):
                for row in self._table(start, min(start + _ENDS, part.stop)).to_pylist():
                    state.update(repr(row).encode("utf-8", "surrogatepass"))
        return state.hexdigest()[:32]

    def units(self, rows_per_unit: int) -> list[Unit]:
        """Divide the rows."""
        if not len(self._data):
            raise DataError(f"{self.dataset}: its split {self.split!r} holds no rows; name another")
        return ranges(f"{self._name}-{self.split}", len(self._data), rows_per_unit, self.fingerprint())

    def read(self, unit: Unit) -> Read:
        """Return a unit's rows."""
        if unit.stop > len(self._data):
            raise DataError(f"{self.dataset}: has no row {unit.stop - 1} any more; did its revision change?")
        table = self._table(unit.start, unit.stop)
        names = [f"{self._name}/{self.split}#{index}" for index in range(unit.start, unit.stop)]
        read = rows_of(table, names)
        return _with_files(read)

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the data: the worker's library has its own copy."""
        return {key: value for key, value in vars(self).items() if key != "_data"}

    @property
    def _name(self) -> str:
        return Path(self.dataset).name if Path(self.dataset).is_dir() else self.dataset

    def _table(self, start: int, stop: int) -> pa.Table:
        table = self._data.with_format("arrow")[start:stop]
        return table.replace_schema_metadata(None)

    @cached_property
    def _data(self) -> Any:
        # Seconds to import, and only this source needs it. Not by a statement: a type checker that starts in
        # the project's root takes the folder of this name for it.
        datasets = import_module("datasets")
        try:
            with _quiet(datasets):
                if (Path(self.dataset) / "dataset_info.json").exists():
                    data = datasets.load_from_disk(self.dataset)
                elif (Path(self.dataset) / "dataset_dict.json").exists():
                    data = datasets.load_from_disk(self.dataset)[self.split]
                else:
                    data = datasets.load_dataset(
                        self.dataset, self.config, split=self.split, revision=self.revision
                    )
        except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
            said = str(error).strip().partition("\n")[0]
            raise DataError(f"{self.dataset}: cannot be loaded ({said}); check its name and split") from error
        if self._chosen is None:
            return data
        if missing := [name for name in self._chosen if name not in data.column_names]:
            raise DataError(
                f"{self.dataset}: has no column {missing[0]!r} (columns: {', '.join(data.column_names)})"
            )
        return data.select_columns(self._chosen)


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    was = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not was:
            datasets.enable_progress_bars()


def _with_files(read: Read) -> Read:
    """Put in the bytes of images and sounds that the dataset only names."""
    batch = dict(read.batch)
    rejected = list(read.rejected)
    good = np.ones(len(batch["row_id"]), dtype=bool)
    for name in ("image", "audio"):
        if name not in batch or batch[name].dtype != object:
            continue
        values = list(batch[name])
        for row, value in enumerate(values):
            if isinstance(value, dict) and value.get("bytes") is None and value.get("path"):
                try:
                    values[row] = Path(value["path"]).read_bytes()
                except OSError as error:
                    good[row] = False
                    rejected.append(Rejected(batch["row_id"][row], f"{value['path']}: {error.strerror}"))
        batch[name] = objects(values)
    return Read({name: column[good] for name, column in batch.items()}, rejected)
