"""The stages of a build, and one-pass fits, on Ray Data.

    read (tasks) → encode (a pool of actors, one encoder each) → write (tasks) → what was done, to the driver

A row of Ray Data is a whole unit (see payload). Every stage may be repeated: reading has no effects, and
a unit is committed by a rename, so it is there once however often it was written.
"""

import json
import logging
import re
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import ActorDiedError, RayError

from ray_app.data.grouping import PARTITIONS
from ray_app.data.payload import Done, Failed, Taught, Work, pack, unpack
from ray_app.data.sources import Unit
from ray_app.errors import RayAppError, RunError
from ray_app.session import session, total_cpus, total_gpus
from ray_app.spec.dataset import Compute

if TYPE_CHECKING:
    from ray_app.data.dataset import Dataset
    from ray_app.data.fit import FitPlan
    from ray_app.data.stages import EncodePlan, Reading, Writing

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

# Units that one read task takes: those of one file are decoded in one pass, but a killed task repeats all.
_UNITS_PER_TASK = 16
# Read tasks for each CPU, so that none is idle while another has a queue.
_TASKS_PER_CPU = 4
# A unit that kills its process each time would be tried for ever. What a lost node held is read again, too.
_TRIES = 4
_READ_TRIES = 16
# What a few units taught leaves as one state: a covariance is large, and a unit may have few rows.
_UNITS_PER_STATE = 8
_NO_PROGRESS_S = 600
_ASK_EVERY_S = 5.0
_TOLD_BY_US = ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state")
# One unit is one block: actors get work as soon as a unit is read.
_BLOCK_BYTES = 1


@dataclass(frozen=True)
class Shared(Generic[T]):
    """A value in Ray's object store, fetched once by each process that uses it."""

    ref: Any
    key: str

    @classmethod
    def put(cls, value: T) -> "Shared[T]":
        """Store a value."""
        ref = ray.put(value)
        return cls(ref, ref.hex())

    def get(self) -> T:
        """Return it."""
        if self.key not in _fetched:
            # One at a time: a long-lived worker must not collect what old runs left.
            _fetched.clear()
            _fetched[self.key] = ray.get(self.ref)
        value: T = _fetched[self.key]
        return value


_fetched: dict[str, Any] = {}


def run(
    reading: "Reading",
    encode: "EncodePlan | None",
    writing: "Writing",
    units: Sequence[Unit],
    compute: Compute,
) -> Iterator[Done]:
    """Build units; what was done with each arrives in any order.

    Raises:
        RunError: The cluster is too small, or a unit kills its process each time.
        RayAppError: What a stage raised.
    """
    actors = pool_size(compute, len(units), stages=2) if encode is not None else 0
    shared = Shared.put(reading)
    spilled = _Spilled()
    with _settings():
        stream = _groups(units, reading.dataset).map_batches(
            _read, fn_kwargs={"reading": shared}, batch_size=1, batch_format="pyarrow", num_cpus=1
        )
        if encode is not None:
            stream = stream.map_batches(
                _EncodeActor,
                fn_constructor_kwargs={"plan": encode},
                **_pool(actors, compute),
            )
        stream = stream.map_batches(
            _write, fn_kwargs={"writing": writing}, batch_size=1, batch_format="pyarrow", num_cpus=1
        )
        for row in _rows(stream):
            done = Done(**json.loads(row["done"]))
            yield replace(done, spent={**done.spent, "actors": actors, "spilled_bytes": spilled()})


def fit(reading: "Reading", plan: "FitPlan", units: Sequence[Unit], compute: Compute) -> "Iterator[Taught]":
    """Return what each few units taught, in the units' order.

    Raises:
        RunError: See run.
        RayAppError: See run.
    """
    actors = pool_size(compute, len(units), stages=1)
    shared = Shared.put(reading)
    with _settings():
        stream = _groups(units, reading.dataset).map_batches(
            _read, fn_kwargs={"reading": shared}, batch_size=1, batch_format="pyarrow", num_cpus=1
        )
        together = max(1, min(_UNITS_PER_STATE, len(units) // (actors * _TASKS_PER_CPU)))
        pool = {**_pool(actors, compute), "batch_size": together}
        stream = stream.map_batches(_FitActor, fn_constructor_kwargs={"plan": plan}, **pool)
        for row in _rows(stream):
            yield Taught(row["state"], row["rows"], row["units"], json.loads(row["rejected"]))


@contextmanager
def cluster(address: str | None) -> "Iterator[Cluster]":
    """Be connected to Ray for the length of a block, and have small work done there."""
    with session(address, metrics=False):
        yield Cluster()


class Cluster:
    """Does work in tasks on Ray, a few for each CPU at a time."""

    def map(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """Return what a function makes of each item, in their order."""
        with _in_one_line():
            yield from self._in_order(function, items)

    def shuffle(
        self, divide: Callable[[A], list[B]], items: Sequence[A], gather: Callable[[list[B]], C]
    ) -> Iterator[C]:
        """Divide each item into as many pieces, and return what comes of the first, second … of all."""
        if not items:
            return
        task: Any = ray.remote(num_cpus=1, max_retries=_TRIES, num_returns=PARTITIONS)(_called)
        with _in_one_line():
            divided = [task.remote(divide, item) for item in items]
            columns = [list(column) for column in zip(*divided, strict=True)]
            del divided
            yield from self._in_order(_Gathered(gather), columns)

    def _in_order(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        task: Any = ray.remote(num_cpus=1, max_retries=_TRIES)(_called)
        shared = ray.put(function)
        running: deque[Any] = deque()
        for item in items:
            running.append(task.remote(shared, item))
            if len(running) >= _TASKS_PER_CPU * max(1, int(total_cpus())):
                yield ray.get(running.popleft())
        while running:
            yield ray.get(running.popleft())


@dataclass(frozen=True)
class _Gathered:
    gather: Callable[[list[Any]], Any]

    def __call__(self, pieces: list[Any]) -> Any:
        return self.gather(ray.get(pieces))


def _called(function: Callable[[A], B], item: A) -> B:
    return function(item)


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (RayAppError, ValueError)):
            raise error.cause from None
        raise _ours(error) from error
    except RayError as error:
        raise _ours(error) from error


class _Spilled:
    """How much the cluster's object stores have spilled since it was made; asked for now and then."""

    def __init__(self) -> None:
        self.asked = -_ASK_EVERY_S
        self.last = 0
        self.first = self.now()

    def __call__(self) -> int:
        return max(0, self.now() - self.first)

    def now(self) -> int:
        if time.monotonic() - self.asked >= _ASK_EVERY_S:
            self.asked = time.monotonic()
            # A node that is about to leave does not answer: it is a number for a report, not worth a run.
            with suppress(Exception):
                from ray._private.internal_api import get_memory_info_reply, get_state_from_address

                state = get_state_from_address(ray.get_runtime_context().gcs_address)
                self.last = int(get_memory_info_reply(state).store_stats.spilled_bytes_total)
        return self.last


def pool_size(compute: Compute, units: int, *, stages: int) -> int:
    """Return how many encoder processes to start; refuse what would wait for ever.

    Args:
        compute: What the spec asks for.
        units: No more processes than these.
        stages: Stages of one CPU each beside the pool; each must be able to run while the pool is full.

    Raises:
        RunError: The cluster does not have it; the message does the sum.
    """
    cpus, gpus = total_cpus(), total_gpus()
    fit_cpus = int((cpus - stages) / compute.num_cpus + 1e-9)
    fit_gpus = int(gpus / compute.num_gpus + 1e-9) if compute.num_gpus else fit_cpus
    actors = compute.actors or max(1, min(fit_cpus, fit_gpus, units))
    if actors > fit_cpus:
        raise RunError(
            f"the cluster has {cpus:g} CPUs; {actors} encoder process(es) of {compute.num_cpus:g}, and"
            f" {stages} beside them to read and write, need {actors * compute.num_cpus + stages:g};"
            " lower compute.actors or compute.num_cpus, or use executor: local"
        )
    if actors > fit_gpus:
        raise RunError(
            f"the cluster has {gpus:g} GPUs; {actors} encoder process(es) of {compute.num_gpus:g} need"
            f" {actors * compute.num_gpus:g}; lower compute.actors or compute.num_gpus, or add GPU nodes"
        )
    return actors


def _pool(actors: int, compute: Compute) -> dict[str, Any]:
    return {
        "compute": ray.data.ActorPoolStrategy(size=actors),
        "batch_size": 1,
        "batch_format": "pyarrow",
        "num_cpus": compute.num_cpus,
        **({"num_gpus": compute.num_gpus} if compute.num_gpus else {}),
        # Over days, on machines that are taken back, any process dies often; _Tries finds a deadly unit.
        "max_restarts": -1,
        "max_task_retries": -1,
    }


def _groups(units: Sequence[Unit], dataset: "Dataset") -> Any:
    size = max(1, min(_UNITS_PER_TASK, len(units) // (int(total_cpus()) * _TASKS_PER_CPU)))
    groups: list[list[Unit]] = []
    for unit in units:
        # What has to be unpacked from its beginning is unpacked once.
        sequel = groups and groups[-1][-1].path == unit.path and dataset.is_sequential(unit)
        if sequel or (groups and len(groups[-1]) < size and not dataset.is_sequential(groups[-1][0])):
            groups[-1].append(unit)
        else:
            groups.append([unit])
    items = [{"units": json.dumps([asdict(unit) for unit in group])} for group in groups]
    return ray.data.from_items(items, override_num_blocks=len(items))


def _read(table: pa.Table, reading: "Shared[Reading]") -> Iterator[pa.Table]:
    tries = _Tries(_READ_TRIES, "read")
    for said in table.column("units").to_pylist():
        units = [Unit(**unit) for unit in json.loads(said)]
        if (failed := tries.begin(units[0].id)) is not None:
            yield pack(failed)
            continue
        try:
            yield from (pack(work) for work in reading.get()(units))
        except RayAppError as error:
            yield pack(Failed.of(error))
        tries.done(units[0].id)


class _Tries:
    """Counts, beside the processes that may die of it, how often each unit was begun."""

    def __init__(self, most: int, stage: str) -> None:
        self.most = most
        self.stage = stage
        self.run = ray.get_runtime_context().get_job_id()

    def begin(self, unit: str) -> Failed | None:
        """Count one more; return what to say of a unit that was begun too often."""
        key = f"ray-app/{self.run}/{self.stage}/{unit}".encode()
        # The count is a precaution: where it cannot be kept, the work goes on.
        with suppress(Exception):
            from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

            count = int(_internal_kv_get(key) or 0) + 1
            _internal_kv_put(key, str(count).encode(), overwrite=True)
            if count > self.most:
                return Failed.of(
                    RunError(
                        f"a process of the {self.stage} stage died {self.most} times on the unit {unit};"
                        " is it memory, or a row that crashes it? lower compute.batch_size or unit_rows"
                    )
                )
        return None

    def done(self, unit: str) -> None:
        """Forget a unit that was finished."""
        with suppress(Exception):
            from ray.experimental.internal_kv import _internal_kv_del

            _internal_kv_del(f"ray-app/{self.run}/{self.stage}/{unit}".encode())


class _EncodeActor:
    def __init__(self, plan: "EncodePlan") -> None:
        from ray_app.data.stages import Encode

        self.tries = _Tries(_TRIES, "model")
        self.encode, self.failed = _made(lambda: Encode(plan))

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.concat_tables([pack(self._encoded(work)) for work in unpack(table)])

    def _encoded(self, work: Work | Failed) -> Work | Failed:
        if isinstance(work, Failed) or self.encode is None:
            return self.failed or work
        if (failed := self.tries.begin(work.unit.id)) is not None:
            return failed
        try:
            encoded = self.encode(work)
        except RayAppError as error:
            return Failed.of(error)
        self.tries.done(work.unit.id)
        return encoded


class _FitActor:
    def __init__(self, plan: "FitPlan") -> None:
        from ray_app.data.fit import Fitting

        self.fitting, self.failed = _made(lambda: Fitting(plan))

    def __call__(self, table: pa.Table) -> pa.Table:
        works = list(unpack(table))
        failed = self.failed or next((work for work in works if isinstance(work, Failed)), None)
        taught = Taught(b"", 0, 0, [])
        if failed is None and self.fitting is not None:
            try:
                taught = self.fitting.teach(work for work in works if isinstance(work, Work))
            except RayAppError as error:
                failed = Failed.of(error)
        return pa.table(
            {
                "state": pa.array([taught.state], pa.large_binary()),
                "rows": [taught.rows],
                "units": [taught.units],
                "rejected": [json.dumps(taught.rejected)],
                "failed": [json.dumps(asdict(failed)) if failed is not None else ""],
            }
        )


def _made(make: Callable[[], T]) -> tuple[T | None, Failed | None]:
    # An actor whose constructor raises takes the run down with a message of Ray's.
    try:
        return make(), None
    except RayAppError as error:
        return None, Failed.of(error)


def _write(table: pa.Table, writing: "Writing") -> pa.Table:
    def written(work: Work | Failed) -> dict[str, str]:
        if isinstance(work, Work):
            try:
                return {"done": json.dumps(asdict(writing(work))), "failed": ""}
            except RayAppError as error:
                work = Failed.of(error)
        return {"done": "", "failed": json.dumps(asdict(work))}

    return pa.Table.from_pylist([written(work) for work in unpack(table)])


def _rows(stream: Any) -> Iterator[Mapping[str, Any]]:
    try:
        for row in stream.iter_rows():
            if row["failed"]:
                raise Failed(**json.loads(row["failed"])).error()
            yield row
    except RayError as error:
        raise _ours(error) from error


def _ours(error: BaseException) -> RunError:
    """One line about what Ray wrapped in many."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        cause = getattr(cause, "cause", None) or cause.__cause__
    if any(isinstance(one, ActorDiedError) for one in seen):
        return RunError(
            "a process that held the model died and could not be started again; is it memory?"
            " lower compute.actors or compute.batch_size"
        )
    return RunError(f"the run failed: {_said(error)}; Ray's logs have the whole of it")


def _said(error: BaseException) -> str:
    # Of a traceback's lines, the last that is neither Ray's wrapping nor its advice says what happened.
    lines = [
        line.strip()
        for line in str(error).splitlines()
        if re.match(r"^[\w.]+(Error|Exception|Interrupt): ", line)
    ]
    ours = [line for line in lines if not line.startswith("ray.")]
    return (ours or lines or [type(error).__name__])[0]


@contextmanager
def _settings() -> Iterator[None]:
    """Ray Data's settings for the length of a run; they are the process', so they are put back."""
    context = ray.data.DataContext.get_current()
    old = (
        context.target_max_block_size,
        context.execution_no_progress_timeout_s,
        context.execution_options.preserve_order,
        context.enable_progress_bars,
    )
    context.target_max_block_size = _BLOCK_BYTES
    context.execution_no_progress_timeout_s = _NO_PROGRESS_S
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # What they say, with a traceback of Ray's own, is raised in one line of ours.
    loggers = [logging.getLogger(name) for name in _TOLD_BY_US]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # max_restarts and max_task_retries; Ray 2.60 warns of them and has no other way yet.
            warnings.filterwarnings("ignore", message="`ray_remote_args", category=Warning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        (
            context.target_max_block_size,
            context.execution_no_progress_timeout_s,
            context.execution_options.preserve_order,
            context.enable_progress_bars,
        ) = old
