"""A unit on its way through the stages, and as the one row that Ray Data carries.

Ray splits and joins blocks between rows. With all of a unit's rows inside of one value, no block can end in
the middle of a unit.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_app.data.arrow import length, to_batch, to_table
from ray_app.data.sources import Rejected, Unit
from ray_app.errors import BundleError, DataError, NotFittedError, RayAppError, RunError, SpecError

if TYPE_CHECKING:
    from ray_app.methods import Batch


@dataclass(frozen=True)
class Work:
    """What has become of a unit so far."""

    unit: Unit
    batch: "Batch"
    rejected: list[Rejected] = field(default_factory=list)
    spent: Mapping[str, float] = field(default_factory=dict)
    """What it took so far: seconds of each stage (`…_s`), and counts."""

    def __len__(self) -> int:
        return length(self.batch)

    def after(self, **spent: float) -> "Work":
        """Return a copy that also says what the last stage took."""
        return replace(self, spent={**self.spent, **spent})


@dataclass(frozen=True)
class Failed:
    """An error of ours on its way to the driver.

    It travels as a row: what Ray makes of a raised exception loses its class and its one line.
    """

    kind: str
    message: str

    @classmethod
    def of(cls, error: RayAppError) -> "Failed":
        """Return what an error says."""
        return cls(type(error).__name__, str(error))

    def error(self) -> RayAppError:
        """Return the error again."""
        kinds = {
            kind.__name__: kind for kind in (SpecError, DataError, BundleError, NotFittedError, RunError)
        }
        return kinds.get(self.kind, RunError)(self.message)


@dataclass(frozen=True)
class Done:
    """What a committed unit holds."""

    unit: str
    rows: int
    rejected: int
    reason: str = ""
    """Of its first rejected row."""
    spent: Mapping[str, float] = field(default_factory=dict)
    """What it took, see Work; not kept with the unit."""


@dataclass(frozen=True)
class Taught:
    """What some units taught the methods that are fitted."""

    state: bytes
    """Safetensors: `<learner>/<buffer>`."""
    rows: int
    units: int
    rejected: list[str]
    """Of each rejected row: what it is called, and why."""


def pack(work: Work | Failed) -> pa.Table:
    """Return a table of one row."""
    if isinstance(work, Failed):
        return _row({"failed": asdict(work)}, None)
    table = to_table(work.batch)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    head = {
        "unit": asdict(work.unit),
        "rejected": [asdict(rejected) for rejected in work.rejected],
        "spent": dict(work.spent),
    }
    return _row(head, sink.getvalue().to_pybytes())


def unpack(table: pa.Table) -> Iterator[Work | Failed]:
    """Return what `pack` packed, one for each row, one at a time."""
    for head, rows in zip(table.column("head"), table.column("rows"), strict=True):
        said = json.loads(head.as_py())
        if "failed" in said:
            yield Failed(**said["failed"])
            continue
        with pa.ipc.open_stream(rows.as_buffer()) as stream:
            batch = to_batch(stream.read_all())
        rejected = [Rejected(**one) for one in said["rejected"]]
        yield Work(Unit(**said["unit"]), batch, rejected, said["spent"])


def _row(head: dict[str, Any], rows: bytes | None) -> pa.Table:
    return pa.table({"head": pa.array([json.dumps(head)]), "rows": pa.array([rows], pa.large_binary())})
