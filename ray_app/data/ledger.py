"""The ledger of a build: which units of input are finished, kept as the names of the files that hold them.

    plan.json              what is built: the spec, the input's fingerprint; written first
    units.parquet          the units of input with their fingerprints
    data/part-<unit>.parquet     a finished unit's rows; its footer names the unit, its counts and the lineage
    empty/<unit>.parquet         a finished unit of which no row was left
    rejected/<unit>.parquet      the rows that were set aside, and why
    fitted/<name>.safetensors    what a detector learned before it scored
    dataset.json           the manifest; written last: its presence means that the build is finished

A file is written under a hidden name, synced and renamed. So a name that exists is a whole file, and a unit
that is written twice (by a task that was repeated) is there once.
"""

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_app.data.arrow import length, to_table
from ray_app.data.payload import Done, Work
from ray_app.data.pictures import as_png
from ray_app.data.sources import Unit
from ray_app.errors import DataError

MANIFEST = "dataset.json"
PLAN = "plan.json"
UNITS = "units.parquet"
FOOTER = b"ray_app"
"""Key of our JSON in the metadata of every Parquet file."""
_PARTS = "data"
_TEMPORARY = ".writing-"
_FOOTER_READERS = 8


@dataclass(frozen=True)
class Ledger:
    """A build's folder.

    Args:
        folder: The dataset's.
        lineage: Goes into every file's footer.
    """

    folder: Path
    lineage: Mapping[str, Any]

    def commit(self, work: Work) -> Done:
        """Write a unit: what was rejected first, then the rows, whose file's name is the commit.

        Raises:
            DataError: It cannot be written.
        """
        reason = f"{work.rejected[0].row_id}: {work.rejected[0].reason}" if work.rejected else ""
        done = Done(work.unit.id, length(work.batch), len(work.rejected), reason)
        footer = {**asdict(done), "fingerprint": work.unit.fingerprint, **self.lineage}
        if work.rejected:
            columns = {
                "row_id": np.array([str(rejected.row_id) for rejected in work.rejected]),
                "reason": np.array([rejected.reason for rejected in work.rejected]),
            }
            self._write(self.folder / "rejected" / f"{work.unit.id}.parquet", to_table(columns), footer)
        try:
            table = to_table(as_png(work.batch) if done.rows else {})
        except ValueError as error:
            raise DataError(str(error)) from error
        self._write(self.part(work.unit.id, empty=not done.rows), table, footer)
        return done

    def part(self, unit: str, *, empty: bool) -> Path:
        """Return the path of a unit's committed file."""
        # Apart from the data: a file without rows has no types, and some readers take those of the first.
        return self.folder / ("empty" if empty else _PARTS) / f"part-{unit}.parquet"

    def finished(self) -> dict[str, Path]:
        """Return the committed units, and their files."""
        found = [
            path for folder in (_PARTS, "empty") for path in (self.folder / folder).glob("part-*.parquet")
        ]
        return {path.stem.removeprefix("part-"): path for path in found}

    def done(self, paths: Iterable[Path]) -> list[Done]:
        """Return what committed files hold, from their footers.

        Raises:
            DataError: One is damaged.
        """
        with ThreadPoolExecutor(_FOOTER_READERS) as pool:
            return list(pool.map(_done, paths))

    def clean(self) -> None:
        """Remove what a killed run was writing."""
        for path in self.folder.rglob(f"{_TEMPORARY}*"):
            with suppress(FileNotFoundError):
                path.unlink()

    def write_plan(self, plan: Mapping[str, Any], units: list[Unit]) -> None:
        """Write down what is built, before anything of it is."""
        table = pa.table(
            {name: [getattr(unit, name) for unit in units] for name in ("id", "path", "fingerprint")}
        )
        self._write(self.folder / UNITS, table, {})
        write_json(self.folder / PLAN, plan)

    def read_plan(self) -> dict[str, Any] | None:
        """Return the plan; None: nothing was begun.

        Raises:
            DataError: It is damaged.
        """
        try:
            return dict(json.loads((self.folder / PLAN).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{self.folder / PLAN}: damaged ({error}); build it anew with --rebuild"
            ) from error

    def changed_units(self, units: list[Unit]) -> str:
        """Say how the units of input differ from those that were planned; empty: they do not."""
        table = pq.read_table(self.folder / UNITS)
        planned = dict(
            zip(table.column("id").to_pylist(), table.column("fingerprint").to_pylist(), strict=True)
        )
        for unit in units:
            if unit.id not in planned:
                return f"{unit.path or unit.id} has rows that were not there"
            if planned[unit.id] != unit.fingerprint:
                return f"{unit.path or unit.id} has changed"
        gone = planned.keys() - {unit.id for unit in units}
        return f"{len(gone)} of {len(planned)} units are gone, {min(gone)} first" if gone else ""

    def _write(self, path: Path, table: pa.Table, footer: Mapping[str, Any]) -> None:
        metadata = {**(table.schema.metadata or {}), FOOTER: json.dumps(footer).encode()}
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
        write_bytes(path, sink.getvalue())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole, or not at all."""
    write_bytes(path, json.dumps(content, indent=2, default=str).encode())


def write_bytes(path: Path, content: Any) -> None:
    """Write a file whole, or not at all.

    Raises:
        DataError: The disk is full, or the folder may not be written to.
    """
    temporary = path.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); make room or give another --out"
        ) from error


def footer_of(path: Path) -> dict[str, Any]:
    """Return the JSON in a built file's footer: unit, counts and lineage.

    Raises:
        DataError: It is damaged, or none of ours.
    """
    try:
        return dict(json.loads(pq.read_metadata(path).metadata[FOOTER]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: damaged, or not written by a build; remove it and build again") from error


def _done(path: Path) -> Done:
    footer = footer_of(path)
    return Done(footer["unit"], footer["rows"], footer["rejected"], footer.get("reason", ""))
