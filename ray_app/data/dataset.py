"""A dataset, opened: its rows in this process, in units, batches or whole; no Ray.

The same object travels to Ray's workers, where the build reads its units.
"""

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ray_app import registry
from ray_app import spec as specs
from ray_app.data import rows
from ray_app.data.arrow import concat, length, nbytes, take
from ray_app.data.ledger import MANIFEST
from ray_app.data.sources import Read, Source, Unit, digest
from ray_app.data.splits import Splits, sampled
from ray_app.errors import DataError, SpecError
from ray_app.spec.dataset import DatasetSpec
from ray_app.storage import Place

if TYPE_CHECKING:
    from ray_app.methods import Batch
    from ray_app.methods.transforms import Transform

MAX_BYTES = 4 * 2**30
"""More than this is not read whole into one process."""
# A derivation of a derivation of …: more than this is a circle.
_MAX_PARENTS = 16
_log = logging.getLogger(__name__)


class Dataset:
    """Rows of a source, or of a parent, as a spec asks for them.

    Args:
        spec: What it is.
        origin: The source, or the parent.
        lineage: Of a built dataset: the fingerprint that its manifest records.
    """

    def __init__(self, spec: DatasetSpec, origin: "Source | Dataset", lineage: str | None = None) -> None:
        self.spec = spec
        self.origin = origin
        self._lineage = lineage
        if spec.split is not None and isinstance(origin, Dataset):
            origin.check_split(spec.split)

    @property
    def name(self) -> str:
        """What the spec calls it."""
        return self.spec.name

    @cached_property
    def labels(self) -> list[str]:
        """Class names in the order of their numbers; empty where there are none, or nobody can know them."""
        if self.spec.labels is not None:
            return self.spec.labels
        if self.origin.labels:
            return list(self.origin.labels)
        theirs = self.spec.columns.get("label", "label")
        largest = self.origin.largest(theirs) if isinstance(self.origin, Source) else None
        return [str(number) for number in range(largest + 1)] if largest is not None and largest >= 0 else []

    @property
    def columns(self) -> list[str]:
        """Columns before the transforms, `row_id` first."""
        theirs = self.spec.columns
        kept = [
            c
            for c in self.origin.columns
            if c not in (*theirs, *theirs.values(), "row_id") or theirs.get(c) == c
        ]
        return ["row_id", *kept, *(ours for ours in theirs if ours not in kept)]

    @property
    def splits(self) -> list[str]:
        """Names of its splits; empty: it has none."""
        return list(self.rule.shares)

    @property
    def rule(self) -> Splits:
        """How rows are divided: its own splits, else its parent's (unless it is one of them)."""
        if self.spec.splits or isinstance(self.origin, Source) or self.spec.split is not None:
            return Splits(self.spec.splits, self.spec.seed, self.spec.split_key, self.spec.split_column)
        return self.origin.rule

    @cached_property
    def fingerprint(self) -> str:
        """Hex digits that change when the input, or what is done to it, does; the same on every machine."""
        if self._lineage is not None:
            return self._lineage
        parent_or_source = {"name", "source", "parent", "unit_rows", *RUNTIME}
        source = self.spec.source.name if self.spec.source else None
        # Without what is not said: a key that a later version adds changes no older dataset.
        done = self.spec.model_dump(mode="json", exclude=parent_or_source, exclude_defaults=True)
        own = self.origin.fingerprint if isinstance(self.origin, Dataset) else self.origin.fingerprint()
        return digest(source, done, own)

    @cached_property
    def transforms(self) -> "list[tuple[str, Transform]]":
        """Its transforms, constructed."""
        return [
            (method.name, cast("Transform", registry.build("transforms", method.name, method.options)))
            for method in self.spec.transforms
        ]

    def units(self) -> list[Unit]:
        """Divide the input.

        Raises:
            DataError: There is none.
        """
        return self._source().units(self.spec.unit_rows)

    def stream(
        self, units: Sequence[Unit], split: str | None = None, *, raw: bool = False
    ) -> Iterator[tuple[Unit, Read]]:
        """Read units in one pass: what `rows` of a split came of each, and what was rejected.

        Args:
            units: Of this dataset; those that follow each other in one file cost one reading.
            split: Which rows; None: all.
            raw: Leave images encoded as they are, for who decodes them himself.

        Raises:
            SpecError: No such split.
            DataError: The input is gone, damaged, or lacks a column.
        """
        self.check_split(split)
        for unit, read in self._source().stream(units):
            yield unit, self._through(read, split, raw=raw)

    def is_sequential(self, unit: Unit) -> bool:
        """Tell whether reading a unit means reading its file up to it."""
        return self._source().is_sequential(unit)

    def reads(self, column: str) -> bool:
        """Tell whether a transform, its own or of a parent, reads a column."""
        own = any(column in transform.columns for _, transform in self.transforms)
        return own or (isinstance(self.origin, Dataset) and self.origin.reads(column))

    def batches(
        self, split: str | None = None, *, batch_size: int, require: Collection[str] = ()
    ) -> "Iterator[Batch]":
        """Return the rows in batches; only the last is smaller.

        Raises:
            SpecError: See stream.
            DataError: See stream; or no rows, a required column missing, or too many rows rejected.
        """
        if batch_size < 1:
            raise SpecError(f"{self.name}: batch_size must be at least 1, got {batch_size}")
        rest: Batch = {}
        for batch in self._good(split, require):
            rest = concat([rest, batch]) if rest else batch
            whole = length(rest) // batch_size * batch_size
            for start in range(0, whole, batch_size):
                yield take(rest, slice(start, start + batch_size))
            rest = take(rest, slice(whole, None))
        if length(rest):
            yield rest

    def read(
        self, split: str | None = None, *, limit: int | None = None, require: Collection[str] = ()
    ) -> "Batch":
        """Return all rows, in memory.

        Args:
            split: Which rows; None: all.
            limit: At most so many, the first ones.
            require: Columns that must be there.

        Raises:
            SpecError: No such split.
            DataError: No rows, more than fit, a required column missing, or too many rows rejected.
        """
        parts: list[Batch] = []
        count = size = 0
        for part in self._good(split, require):
            parts.append(part)
            count += length(part)
            if limit is not None and count >= limit:
                break
            size += nbytes(part)
            if size > MAX_BYTES:
                raise DataError(
                    f"{self.name}: more than {MAX_BYTES // 2**30} GiB after {count:,} rows;"
                    " read it in batches, or give a limit"
                )
        batch = concat(parts)
        return take(batch, slice(limit)) if limit is not None else batch

    def check_split(self, split: str | None) -> None:
        """Refuse a split that it does not have.

        Raises:
            SpecError: Names the splits that it has.
        """
        if split is not None and split not in self.splits:
            raise SpecError(
                f"{self.name}: has no split {split!r}{registry.nearest(split, self.splits)}"
                f" (splits: {', '.join(self.splits) or 'none'})"
            )

    def _good(self, split: str | None, require: Collection[str]) -> "Iterator[Batch]":
        units = self.units()
        limit = RejectLimit(self.name, self.spec.max_rejected, sum(map(len, units)))
        count = 0
        for _, read in self.stream(units, split):
            limit.add([f"{rejected.row_id}: {rejected.reason}" for rejected in read.rejected])
            for column in require:
                if column not in read.batch:
                    raise DataError(
                        f"{self.name}: has no column {column!r} (columns: {', '.join(read.batch)});"
                        f" say which holds it with `columns: {{{column}: …}}`"
                    )
            if rows_here := length(read.batch):
                count += rows_here
                yield read.batch
        if not count:
            raise DataError(f"{self.name}: {self.none_left(split)}")
        limit.log()

    def none_left(self, split: str | None) -> str:
        """Say why there may be no rows."""
        kept = [f"split {split!r}"] if split is not None else []
        if self.spec.sample is not None:
            kept.append(f"sample {self.spec.sample:g}")
        if self.spec.classes is not None:
            kept.append(f"classes {self.spec.classes}")
        return (
            f"no rows{' in ' + ' and '.join(kept) if kept else ''}; check its source and what its spec keeps"
        )

    def _source(self) -> Source:
        return self.origin if isinstance(self.origin, Source) else self.origin._source()

    def _through(self, read: Read, split: str | None, *, raw: bool = False) -> Read:
        if isinstance(self.origin, Dataset):
            inner = self.spec.split or (None if self.spec.splits else split)
            read = self.origin._through(read, inner, raw=raw)
        if self.spec.columns:
            read = rows.renamed(read, self.spec.columns, self.name)
        # Before the pixels: rows that nobody wants are not decoded.
        if (share := self.spec.sample) is not None:
            wanted = sampled(read.batch, share, self.spec.seed, self.spec.split_key)
            read = Read(take(read.batch, wanted), read.rejected)
        if self.spec.splits and split is not None:
            read = Read(take(read.batch, self.rule.mask(read.batch, split)), read.rejected)
        if isinstance(self.origin, Source) or self.spec.columns:
            read = rows.numbered(read, self.labels, self.name)
            read = rows.decoded(read, images=not raw)
        if (classes := self.spec.classes) is not None:
            if "label" not in read.batch:
                raise DataError(
                    f"{self.name}: `classes` needs the column 'label' (columns: {', '.join(read.batch)})"
                )
            read = Read(take(read.batch, np.isin(read.batch["label"], classes)), read.rejected)
        return rows.transformed(read, self.transforms, self.name)

    def __getstate__(self) -> dict[str, Any]:
        """Travel without what the worker can construct itself."""
        return {key: value for key, value in vars(self).items() if key != "transforms"}


RUNTIME = frozenset({"max_rejected", "compute"})
"""Keys of the spec that change how rows are made, not what they are."""


class RejectLimit:
    """Counts rejected rows and stops past a share of all.

    Args:
        name: How to call the dataset.
        share: Of the rows planned.
        planned: Rows that the units hold, before any filter.
    """

    def __init__(self, name: str, share: float, planned: int) -> None:
        self.name, self.share, self.planned = name, share, planned
        self.count = 0
        self.first = ""

    def add(self, reasons: Sequence[str]) -> None:
        """Count more.

        Raises:
            DataError: Too many; the message has the first one.
        """
        if not reasons:
            return
        self.count += len(reasons)
        self.first = self.first or reasons[0]
        if self.count > self.share * self.planned:
            raise DataError(
                f"{self.name}: {self.count:,} of {self.planned:,} rows rejected, more than"
                f" `max_rejected: {self.share:g}` allows; first {self.first}"
            )

    def log(self) -> None:
        """Say how many there were, if any."""
        if self.count:
            _log.warning(
                "%s: %d of %d rows rejected; first %s", self.name, self.count, self.planned, self.first
            )


def open_dataset(
    what: "DatasetSpec | Place | str | Path", overrides: Mapping[str, Any] | None = None
) -> Dataset:
    """Open a dataset: a spec, a YAML file, or the folder of a built dataset.

    Args:
        what: Which.
        overrides: Dotted key → value, set over what a YAML file says.

    Raises:
        SpecError: The file does not say what it may.
        DataError: The folder holds no finished dataset.
    """
    return _open(what, overrides, 0)


def _open(
    what: "DatasetSpec | Place | str | Path", overrides: Mapping[str, Any] | None, depth: int
) -> Dataset:
    if depth > _MAX_PARENTS:
        raise SpecError(
            f"{what}: has more than {_MAX_PARENTS} parents above each other; is one its own parent?"
        )
    if not isinstance(what, DatasetSpec):
        if (place := Place.of(what)).suffix not in (".yaml", ".yml", ".json") and place.is_dir():
            return _built(place)
        named = place.path if isinstance(what, Place) or not place.is_local else what
        what = specs.load(named, DatasetSpec, overrides)
    if what.source is not None:
        return Dataset(what, cast(Source, what.source.build("sources")))
    parent = _open(str(what.parent), None, depth + 1)
    if parent.spec.selectors:
        raise SpecError(
            f"parent: {what.parent} has selectors, which choose when it is built;"
            " build it, and name its folder as the parent"
        )
    return Dataset(what, parent)


def _built(folder: Place) -> Dataset:
    if not (folder / MANIFEST).exists():
        raise DataError(f"{folder}: holds no {MANIFEST}; is it a dataset, and was its build finished?")
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        spec = DatasetSpec(
            name=content["name"],
            source=specs.Method(name="parquet", options={"path": str(folder / "data")}),
            labels=content["labels"] or None,
            splits=content["splits"],
            split_key=content.get("split_key"),
            split_column=content.get("split_column"),
            seed=content["seed"],
        )
        return Dataset(
            spec, cast(Source, cast(specs.Method, spec.source).build("sources")), content["fingerprint"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / MANIFEST}: damaged ({error}); build the dataset again") from error


__all__ = ["MANIFEST", "Dataset", "RejectLimit", "open_dataset"]
