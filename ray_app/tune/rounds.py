"""Trials in rounds: does what a plan asks for, in Ray tasks, and writes down what came of it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from ray_app.errors import RunError
from ray_app.progress import Work
from ray_app.tune.ledger import Ledger, Trial
from ray_app.tune.plan import Copy, Part, Plan
from ray_app.tune.search import trial_name

if TYPE_CHECKING:
    from ray_app.tune.trial import Shared


@dataclass
class Rounds:
    """Runs a plan.

    Args:
        plan: What to do.
        train: Trains a part of a trial, in a Ray task: train_trial.
        shared: What it reads besides.
        work: Shows progress, in epochs.
        sign: -1 where the metric is better lower.
        tries: How often a part is begun whose worker dies.
    """

    plan: Plan
    train: Callable[..., None]
    shared: "Shared"
    work: Work
    sign: float
    tries: int
    _trials: dict[str, Trial] = field(default_factory=dict)
    _running: dict["ray.ObjectRef[None]", Part] = field(default_factory=dict)
    _lost: dict[Part, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sweep = self.shared.sweep
        self._ledger = Ledger(self.shared.folder)
        # max_calls: where a GPU is held, Ray would else begin a process for each part.
        cpus, gpus = sweep.resources.held
        self._task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=0)(self.train)
        self._begun = time.monotonic()
        self._before = 0

    def run(self) -> None:
        """Do all that is left.

        Raises:
            RunError: A state is gone that cannot be made again.
        """
        for trial in self._ledger.trials():
            self._trials[trial.name] = self._as_it_is(trial)
        self._before = sum(len(trial.curve) for trial in self._trials.values())
        if self._before:
            self.work.advance(self._before, f"{self._before} epochs were there already")
        shared = ray.put(self.shared)
        try:
            while parts := self._due():
                self._start(parts, shared)
                if not self._running:
                    break
                ended, _ = ray.wait(list(self._running))
                for reference in ended:
                    self._end(reference)
        finally:
            for reference in self._running:
                ray.cancel(reference, force=True)

    def _due(self) -> list[Part]:
        """Apply decisions until nothing is left but to train; return what."""
        while True:
            step = self.plan.step(self._trials)
            for trial in step.begin:
                self._record(trial)
            for name in step.stop:
                trial = self._trials[name]
                trial.status = "stopped"
                self._record(trial)
                self._tell(trial)
            for copy in step.copy:
                self._copy(copy)
            if not (step.begin or step.stop or step.copy):
                return list(step.train)

    def _start(self, parts: list[Part], shared: Any) -> None:
        sweep = self.shared.sweep
        there = set(self._running.values())
        # The longest first, so that no core waits for one that was begun late.
        parts = sorted(parts, key=lambda part: (part.until is not None, -(part.until or 0), part.name))
        for part in parts:
            if sweep.concurrent is not None and len(self._running) >= sweep.concurrent:
                return
            if part in there or self._budget_is_spent(part):
                continue
            config = self._trials[part.name].config
            self._running[self._task.remote(part.name, config, shared, until=part.until)] = part

    def _budget_is_spent(self, part: Part) -> bool:
        budget = self.shared.sweep.budget
        hours = (time.monotonic() - self._begun) / 3600
        # The defaults are run in any case, or there may be nothing to show.
        return part.name != trial_name(0) and (
            (budget.hours is not None and hours >= budget.hours)
            or (
                budget.epochs is not None
                and sum(len(trial.curve) for trial in self._trials.values()) >= budget.epochs
            )
        )

    def _end(self, reference: Any) -> None:
        """Take note of a part that ended, or begin it again if its worker died."""
        part = self._running.pop(reference)
        before = len(self._trials[part.name].curve)
        reason = "its state is not there; do all nodes share the run's folder?"
        try:
            ray.get(reference)
        except RayError as error:
            # train_trial itself catches what Python can raise: this is a process or a node.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = f"the worker was lost ({lines[-1].partition('. ')[0].rstrip('.')}); out of memory?"
        trial = self._as_it_is(self._ledger.read(part.name) or self._trials[part.name])
        self._trials[trial.name] = trial
        if trial.status == "running" and len(trial.curve) < (part.until or math.inf):
            self._lost[part] = self._lost.get(part, 0) + 1
            if self._lost[part] >= self.tries:
                trial.status = "failed"
                trial.error = f"begun {self.tries} times without an end: {reason}"
                self._record(trial)
        if trial.status == "finished" and self.shared.sweep.keep is not None:
            self._ledger.keep_best(self.shared.sweep.keep, self.shared.sweep.metric, self.sign)
        self._tell(trial, len(trial.curve) - before)

    def _record(self, trial: Trial) -> None:
        self._ledger.write(trial)
        self._trials[trial.name] = self._as_it_is(trial)

    def _copy(self, copy: Copy) -> None:
        """Give a trial another's state, then its record: a kill in between only has it copied again."""
        self._ledger.state(copy.parent).copy_to(self._ledger.state(copy.name).folder)
        trial = self._trials[copy.name]
        trial.config = copy.config
        trial.lineage.append({"epoch": copy.epoch, "parent": copy.parent, "config": copy.config})
        self._record(trial)

    def _as_it_is(self, trial: Trial) -> Trial:
        """Return a record whose curve ends where the trial would go on."""
        if trial.status == "finished" and not trial.dropped and not self._ledger.weights(trial.name).exists():
            trial.status = "running"
        if trial.status == "running":
            kept = self._ledger.state(trial.name).epoch
            changed = trial.lineage[-1]["epoch"] if trial.lineage else 0
            if kept < changed:
                raise RunError(
                    f"{self._ledger.folder / trial.name}: its state is gone, and it went on from another "
                    f"trial's; delete {self._ledger.folder} to begin the sweep anew"
                )
            trial.curve = trial.curve[:kept]
        else:
            # A kill after its record, and before this, left it.
            self._ledger.state(trial.name).delete()
        return trial

    def _tell(self, trial: Trial, epochs: int = 0) -> None:
        """Say what became of a trial, which is the best so far, and how long the rest will take."""
        metric = self.shared.sweep.metric
        done = sum(len(other.curve) for other in self._trials.values())
        left = max(0, self.plan.epochs - done)
        seconds = (time.monotonic() - self._begun) / max(1, done - self._before) * left
        what = trial.error or f"{metric} {trial.last(metric):.4f}"
        note = f"{trial.status} trial {trial.name}: {what}"
        best = self._ledger.best(metric, self.sign)
        if best is not None:
            note += f"; best {best.name} {best.last(metric):.4f}"
        self.work.advance(max(0, epochs), f"{note}; {clock(seconds)} left")


def clock(seconds: float) -> str:
    """Return a length of time to be read."""
    minutes = round(seconds / 60)
    return (
        f"{round(seconds)} s"
        if seconds < 90
        else f"{minutes} min"
        if minutes < 90
        else f"{minutes / 60:.1f} h"
    )
