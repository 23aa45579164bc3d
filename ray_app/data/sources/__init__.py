"""Sources read rows from outside: files, generators, what libraries bundle. They know arrays, not Ray."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_app.methods import Batch


UNIT_BYTES = 64 * 2**20
"""A unit is held in memory, and pictures take ten times as much there as in their files: a unit of large rows
has fewer of them than was asked for."""


@dataclass(frozen=True)
class Unit:
    """A range of input rows that is read, computed, written and committed as one."""

    id: str
    """Deterministic, unique in its source, and fit for a file name."""
    path: str | None
    """The file it is read from; None: the source has no files."""
    start: int
    """First row, counted in its file (or in the source, where there are no files); see `rows`."""
    stop: int
    """One past the last row."""
    fingerprint: str
    """Changes when the input changes."""
    rows: int | None = None
    """About how many rows, where `start` and `stop` count something else (bytes, files)."""

    def __len__(self) -> int:
        return self.stop - self.start if self.rows is None else self.rows


@dataclass(frozen=True)
class Rejected:
    """A row that could not be read, and why."""

    row_id: str
    reason: str


@dataclass(frozen=True)
class Read:
    """What came of reading a unit: good rows, and bad ones with their reasons."""

    batch: "Batch"
    rejected: list[Rejected] = field(default_factory=list)


class Source(ABC):
    """Where rows come from. Construction checks options and reads nothing.

    Every row has the string column `row_id`: the same on every machine and for every size of unit.
    """

    @property
    @abstractmethod
    def columns(self) -> Sequence[str]:
        """The columns that `read` gives beside `row_id`, known before it is called.

        Raises:
            DataError: There is nothing to read.
        """

    @property
    @abstractmethod
    def labels(self) -> Sequence[str]:
        """Class names in the order of their numbers; empty where it has no labels or cannot know them."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return hex digits that change when any row does; they do not depend on where the files lie."""

    @abstractmethod
    def units(self, rows_per_unit: int) -> list[Unit]:
        """Divide the input, without decoding it.

        Raises:
            DataError: There is nothing to read.
        """

    @abstractmethod
    def read(self, unit: Unit) -> Read:
        """Return a unit's rows in their order; a row that cannot be read is rejected, not raised.

        Raises:
            DataError: The file as a whole cannot be read, or has fewer rows than the unit says.
        """

    def largest(self, column: str) -> int | None:
        """Return the largest number in a column, where the source knows it without reading the rows."""
        return None

    def is_sequential(self, unit: Unit) -> bool:
        """Tell whether reading it means reading its file up to it, as where the file is packed.

        One process then had better read all of such a file's units, in their order.
        """
        return False

    def stream(self, units: Sequence[Unit]) -> "Iterator[tuple[Unit, Read]]":
        """Read several units in one pass; units of one file that follow each other cost one reading of it."""
        for unit in units:
            yield unit, self.read(unit)


def digest(*parts: Any) -> str:
    """Return 32 hex digits of a hash over JSON values."""
    content = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def ranges(name: str, rows: int, rows_per_unit: int, fingerprint: str, path: str | None = None) -> list[Unit]:
    """Divide rows 0..rows of one file (or of a whole source) into units of at most `rows_per_unit` rows."""
    return [
        Unit(unit_id(name, start, stop), path, start, stop, fingerprint)
        for start in range(0, rows, rows_per_unit)
        for stop in [min(start + rows_per_unit, rows)]
    ]


def runs(units: Sequence[Unit], goes_on: Callable[[Unit, Unit], bool]) -> list[list[Unit]]:
    """Group units that are read in one go: of one path, each going on from the one before."""
    found: list[list[Unit]] = []
    for unit in units:
        if found and found[-1][-1].path == unit.path and goes_on(found[-1][-1], unit):
            found[-1].append(unit)
        else:
            found.append([unit])
    return found


def unit_id(name: str, start: int, stop: int) -> str:
    """Return a unit's id from the name of what it is a part of."""
    # Different names may look alike once made fit for a file name, so a few digits of a hash tell them apart.
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[-48:]
    return f"{plain}-{digest(name)[:6]}-{start:010d}-{stop:010d}"
