"""The ledger of a build: which units of input are finished, kept as the names of the files that hold them.

    plan.json              what is built: the spec, the input's fingerprint; written first
    units.parquet          the units of input with their fingerprints
    lease.json             who is building at the moment
    data/part-<unit>.parquet     a finished unit's rows; its footer names the unit, its counts and the lineage
    empty/part-<unit>.parquet    a finished unit of which no row was left
    rejected/<unit>.parquet      the rows that were set aside, why, and where they came from
    progress.parquet             the counts of units that were finished a while ago, so that a resumed build
                                 need not open their files
    scored/, scored_empty/       like data/ and empty/, before selectors have chosen; gone when they have
    fitted/<name>.safetensors    what a detector, scorer or selector learned before it was applied
    calibration.json             how the encoder runs fastest here
    dataset.json           the manifest; written last: its presence means that the build is finished

A file is written under a hidden name and renamed. So a name that exists is a whole file, and a unit that is
written twice (by a task that was repeated) is there once.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_app.data.arrow import length, to_table
from ray_app.data.payload import Done, Work
from ray_app.data.pictures import as_png
from ray_app.data.sources import Unit
from ray_app.errors import DataError
from ray_app.storage import HIDDEN, Place

MANIFEST = "dataset.json"
PLAN = "plan.json"
UNITS = "units.parquet"
PROGRESS = "progress.parquet"
FOOTER = b"ray_app"
"""Key of our JSON in the metadata of every Parquet file."""
PARTS = "data"
SCORED = "scored"
_EMPTY = {PARTS: "empty", SCORED: "scored_empty"}
_FOOTER_READERS = 8
_COUNTS = pa.schema(
    [("unit", pa.string()), ("rows", pa.int64()), ("rejected", pa.int64()), ("reason", pa.string())]
)
_UNITS = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("fingerprint", pa.string()),
        ("rows", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Ledger:
    """A build's folder.

    Args:
        folder: The dataset's.
        lineage: Goes into every file's footer.
        parts: Where rows go: `data`, or `scored` where selectors have yet to choose.
    """

    folder: Place
    lineage: Mapping[str, Any]
    parts: str = PARTS

    def commit(self, work: Work) -> Done:
        """Write a unit: what was rejected first, then the rows, whose file's name is the commit.

        Raises:
            DataError: It cannot be written.
        """
        reason = f"{work.rejected[0].row_id}: {work.rejected[0].reason}" if work.rejected else ""
        done = Done(work.unit.id, length(work.batch), len(work.rejected), reason, work.spent)
        footer = {**_counts(done), "fingerprint": work.unit.fingerprint, **self.lineage}
        if work.rejected:
            columns = {
                "row_id": np.array([str(rejected.row_id) for rejected in work.rejected]),
                "reason": np.array([rejected.reason for rejected in work.rejected]),
                "origin": np.array([work.unit.path or work.unit.id] * len(work.rejected)),
            }
            self._write(self.folder / "rejected" / f"{work.unit.id}.parquet", to_table(columns), footer)
        try:
            table = to_table(as_png(work.batch) if done.rows else {})
        except ValueError as error:
            raise DataError(str(error)) from error
        self._write(self.part(work.unit.id, empty=not done.rows), table, footer)
        return done

    def rewrite(self, unit: str, table: pa.Table, footer: Mapping[str, Any]) -> None:
        """Write a unit's rows as selectors left them; a unit of which none was left, too."""
        footer = {**footer, "rows": table.num_rows, **self.lineage}
        self._write(self.part(unit, empty=not table.num_rows), table, footer)

    def part(self, unit: str, *, empty: bool) -> Place:
        """Return the place of a unit's committed file."""
        # Apart from the data: a file without rows has no types, and some readers take those of the first.
        return self.folder / (_EMPTY[self.parts] if empty else self.parts) / f"part-{unit}.parquet"

    def finished(self) -> dict[str, Place]:
        """Return the committed units, and their files."""
        found = {}
        for folder in (self.parts, _EMPTY[self.parts]):
            for stat in (self.folder / folder).walk():
                if stat.name.startswith("part-") and stat.name.endswith(".parquet"):
                    found[stat.name[len("part-") : -len(".parquet")]] = stat.place
        return found

    def done(self, finished: Mapping[str, Place]) -> Iterator[Done]:
        """Return what committed files hold: from the noted counts, else from their footers.

        Raises:
            DataError: One is damaged.
        """
        noted: set[str] = set()
        if (self.folder / PROGRESS).exists():
            with (self.folder / PROGRESS).open() as file:
                for batch in pq.ParquetFile(file).iter_batches(batch_size=4096):
                    for row in batch.to_pylist():
                        if row["unit"] in finished:
                            noted.add(row["unit"])
                            yield Done(**row)
        with ThreadPoolExecutor(_FOOTER_READERS) as pool:
            yield from pool.map(_done, (place for unit, place in finished.items() if unit not in noted))

    def note(self, done: Iterable[Done]) -> None:
        """Keep the counts of finished units in one file, for the next run."""
        table = pa.Table.from_pylist([_counts(one) for one in done], schema=_COUNTS)
        self._write(self.folder / PROGRESS, table, {})

    def drop_scored(self) -> None:
        """Delete the rows that selectors chose among."""
        for folder in (SCORED, _EMPTY[SCORED]):
            (self.folder / folder).remove_tree()

    def clean(self) -> None:
        """Remove what a killed run was writing."""
        for stat in self.folder.walk():
            if stat.name.rpartition("/")[2].startswith(HIDDEN):
                stat.place.remove()

    def write_plan(self, plan: Mapping[str, Any], units: list[Unit]) -> None:
        """Write down what is built, before anything of it is."""
        self._write(self.folder / UNITS, pa.Table.from_pylist(list(map(asdict, units)), schema=_UNITS), {})
        write_json(self.folder / PLAN, plan)

    def planned(self) -> list[Unit]:
        """Return the units of input that were planned.

        Raises:
            DataError: The list is damaged.
        """
        return [Unit(**row) for row in read_part(self.folder / UNITS, _UNITS.names).to_pylist()]

    def read_plan(self) -> dict[str, Any] | None:
        """Return the plan; None: nothing was begun.

        Raises:
            DataError: It is damaged.
        """
        if not (self.folder / PLAN).exists():
            return None
        try:
            return dict(json.loads((self.folder / PLAN).read_bytes()))
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.folder / PLAN}: damaged ({error}); build it anew with --force") from error

    def changed_units(self, units: list[Unit]) -> str:
        """Say how the units of input differ from those that were planned; empty: they do not."""
        planned = {unit.id: unit.fingerprint for unit in self.planned()}
        for unit in units:
            if unit.id not in planned:
                return f"{unit.path or unit.id} has rows that were not there"
            if planned[unit.id] != unit.fingerprint:
                return f"{unit.path or unit.id} has changed"
        gone = planned.keys() - {unit.id for unit in units}
        return f"{len(gone)} of {len(planned)} units are gone, {min(gone)} first" if gone else ""

    def _write(self, place: Place, table: pa.Table, footer: Mapping[str, Any]) -> None:
        metadata = {**(table.schema.metadata or {}), FOOTER: json.dumps(footer).encode()}
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
        place.write_bytes(sink.getvalue())


def write_json(place: Place, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole, or not at all."""
    place.write_bytes(json.dumps(content, indent=2, default=str).encode())


def read_part(place: Place, columns: Iterable[str] | None = None) -> pa.Table:
    """Return the rows of a committed file.

    Raises:
        DataError: It is damaged, or lacks a column.
    """
    try:
        with place.open() as file:
            return pq.read_table(file, columns=list(columns) if columns is not None else None)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{place}: damaged ({error}); remove it and build again") from error


def footer_of(place: Place) -> dict[str, Any]:
    """Return the JSON in a built file's footer: unit, counts and lineage.

    Raises:
        DataError: It is damaged, or none of ours.
    """
    try:
        with place.open() as file:
            return dict(json.loads(pq.read_metadata(file).metadata[FOOTER]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{place}: damaged, or not written by a build; remove it and build again") from error


def _counts(done: Done) -> dict[str, Any]:
    return {name: value for name, value in asdict(done).items() if name != "spent"}


def _done(place: Place) -> Done:
    footer = footer_of(place)
    return Done(footer["unit"], footer["rows"], footer["rejected"], footer.get("reason", ""))
