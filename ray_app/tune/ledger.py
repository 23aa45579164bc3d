"""The state of a sweep as data, a JSON record a trial: a killed run goes on, and nothing is unpickled."""

import math
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from ray_app.methods.combiners import Candidate
from ray_app.tune.state import Saved
from ray_app.tune.store import file_key, open_state, read_json, write_json

Status: TypeAlias = Literal["running", "finished", "stopped", "failed"]
RECORD = "trial.json"
WEIGHTS = "candidate.safetensors"


class Change(TypedDict):
    """From an epoch on, a trial has other settings."""

    epoch: int
    """So many were trained before."""
    parent: str | None
    """The trial whose state it went on from; None: its own."""
    config: dict[str, Any]


@dataclass
class Trial:
    """One trial: what was asked, what came of it."""

    name: str
    config: dict[str, Any]
    """Setting → value, over the spec's defaults."""
    status: Status = "running"
    curve: list[dict[str, float]] = field(default_factory=list)
    """What each epoch reported, in order."""
    error: str | None = None
    seconds: float = 0.0
    """Of training, without what it took to begin."""
    tries: int = 0
    """How often a process began with it: once, or once a round, and again where one was lost."""
    dropped: bool = False
    """Whether its weights were deleted: others were better, and so many are kept."""
    lineage: list[Change] = field(default_factory=list)
    """Its settings from the start on, where they change under way; empty: `config` throughout."""

    def at(self, metric: str, epoch: int) -> float | None:
        """Return a metric's value after an epoch, from 1; nan: it was none; None: it has not come so far."""
        return self.curve[epoch - 1].get(metric, math.nan) if len(self.curve) >= epoch else None

    def last(self, metric: str) -> float:
        """Return the latest value of a metric; nan when it has none."""
        return self.curve[-1].get(metric, math.nan) if self.curve else math.nan


class Ledger:
    """The trials of a run folder.

    Args:
        folder: Holds a folder a trial.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def weights(self, name: str) -> Path:
        """Return where a trial's weights are."""
        return self.folder / name / WEIGHTS

    def state(self, name: str, every_s: float = 0.0) -> Saved:
        """Return where a trial that has not ended can be gone on from.

        Args:
            name: The trial's.
            every_s: Seconds between two writes.
        """
        return Saved(self.folder / name / "state", every_s)

    def write(self, trial: Trial) -> None:
        """Record a trial."""
        write_json(self.folder / trial.name / RECORD, asdict(trial))

    def read(self, name: str) -> Trial | None:
        """Return a trial's record, if there is one."""
        path = self.folder / name / RECORD
        return Trial(**read_json(path)) if path.exists() else None

    def trials(self) -> list[Trial]:
        """Return all recorded trials in the order of their names."""
        if not self.folder.is_dir():
            return []
        return [
            trial for path in sorted(self.folder.iterdir()) if (trial := self.read(path.name)) is not None
        ]

    def ended(self) -> list[Trial]:
        """Return those that need not run again: finished with weights, or stopped by the scheduler.

        A failed trial counts as ended too: the same settings would fail again. Delete its folder to retry it.
        """
        return [
            trial
            for trial in self.trials()
            if trial.status in ("stopped", "failed")
            or (trial.status == "finished" and (trial.dropped or self.weights(trial.name).exists()))
        ]

    def best(self, metric: str, sign: float) -> Trial | None:
        """Return the best finished trial so far; None: none has finished."""
        done = [t for t in self.trials() if t.status == "finished" and math.isfinite(t.last(metric))]
        return min(done, key=lambda trial: (-sign * trial.last(metric), trial.name), default=None)

    def epochs(self) -> int:
        """Return how many epochs all trials together have been trained for."""
        return sum(len(trial.curve) for trial in self.trials())

    def keep_best(self, count: int, metric: str, sign: float) -> None:
        """Delete the weights of all finished trials but the best so many.

        Who is not among the best of some trials is not among the best of more, so that it does not matter in
        which order trials finish, nor whether the sweep was killed in between.
        """
        for candidate in self.candidates(metric, sign)[count:]:
            trial = self.read(candidate.name)
            if trial is not None:
                # The record first: weights without a record would be a trial that has to run again.
                trial.dropped = True
                self.write(trial)
                self.weights(trial.name).unlink(missing_ok=True)
                for path in (self.folder / trial.name).glob("cycle-*.safetensors"):
                    path.unlink(missing_ok=True)

    def candidates(self, metric: str, sign: float) -> list[Candidate]:
        """Return the finished trials, best first.

        Args:
            metric: What they are ordered by.
            sign: -1 where lower is better; a candidate's value is always higher for better.
        """
        found = [
            Candidate(
                trial.name,
                sign * trial.last(metric),
                partial(open_state, self.weights(trial.name)),
                snapshots=self._snapshots(trial.name),
                key=partial(file_key, self.weights(trial.name)),
            )
            for trial in self.ended()
            if trial.status == "finished" and not trial.dropped and math.isfinite(trial.last(metric))
        ]
        return sorted(found, key=lambda candidate: (-candidate.value, candidate.name))

    def snapshot(self, name: str, cycle: int) -> Path:
        """Return where a trial's weights at the end of a cycle of its learning rate go, counted from 1.

        The last cycle's are the trial's weights, and are not written twice.
        """
        return self.folder / name / f"cycle-{cycle:04d}.safetensors"

    def _snapshots(self, name: str) -> list[Candidate]:
        return [
            Candidate(
                f"{name}@{int(path.stem.removeprefix('cycle-'))}",
                math.nan,
                partial(open_state, path),
                key=partial(file_key, path),
            )
            for path in sorted((self.folder / name).glob("cycle-*.safetensors"))
        ]

    def table(self, metric: str, sign: float) -> pa.Table:
        """Return the leaderboard: a row a trial, best first."""

        def place(trial: Trial) -> tuple[float, str]:
            value = trial.last(metric)
            return (-sign * value if math.isfinite(value) else math.inf, trial.name)

        trials = sorted(self.trials(), key=place)
        settings = sorted({key for trial in trials for key in trial.config})
        columns: dict[str, list[Any]] = {
            "trial": [trial.name for trial in trials],
            "status": [trial.status for trial in trials],
            "epochs": [len(trial.curve) for trial in trials],
            "accuracy": [trial.last("accuracy") for trial in trials],
            "nll": [trial.last("nll") for trial in trials],
            "error": [trial.error for trial in trials],
        }
        for key in settings:
            values = [trial.config.get(key) for trial in trials]
            plain = all(value is None or isinstance(value, (int, float)) for value in values)
            columns[f"config/{key}"] = values if plain else [None if v is None else str(v) for v in values]
        return pa.table(columns)

    def write_table(self, path: Path, metric: str, sign: float) -> None:
        """Write the leaderboard as Parquet, whole or not at all."""
        temporary = path.with_name(f".{path.name}")
        pq.write_table(self.table(metric, sign), temporary, compression="zstd")
        temporary.replace(path)
