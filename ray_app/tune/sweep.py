"""The sweep: Ray Tune runs the trials that the ledger lacks, each from the shared start."""

import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from ray_app.errors import RunError
from ray_app.progress import Reporter, Work
from ray_app.session import total_cpus, total_gpus
from ray_app.spec.train import settings
from ray_app.spec.tune import Sweep
from ray_app.tune.hyperband import HyperBand
from ray_app.tune.ledger import Ledger, Trial
from ray_app.tune.pbt import Population
from ray_app.tune.plan import Plan
from ray_app.tune.rounds import Rounds, clock
from ray_app.tune.search import LedgerSearch, Proposals, trial_name
from ray_app.tune.trial import Shared, train_trial
from ray_app.tune.workers import train_together

# A process that dies of what it does dies each time.
_TRIES = 2


def run_sweep(shared: Shared, reporter: Reporter) -> Ledger:
    """Run what is left of a sweep.

    Raises:
        RunError: Every trial failed; the message has the first error.
    """
    if shared.sweep.resources.workers > 1:
        shared = replace(shared, sweep=_as_many_as_fit(shared.sweep))
    sweep, ledger = shared.sweep, Ledger(shared.folder)
    if sweep.scheduler.in_rounds:
        _in_rounds(shared, reporter)
    else:
        _one_by_one(shared, ledger, reporter)
    if sweep.keep is not None:
        # A run that was killed between a record and this would have kept more.
        ledger.keep_best(sweep.keep, sweep.metric, sweep.sign)
    if not any(trial.status == "finished" for trial in ledger.trials()):
        errors = [trial.error for trial in ledger.trials() if trial.error] or ["no trial finished"]
        raise RunError(f"every trial failed; the first error: {errors[0]} (records: {ledger.folder})")
    return ledger


def _as_many_as_fit(sweep: Sweep) -> Sweep:
    """Bound how many trials there are at a time: Ray places them one by one, and half of each would wait."""
    cpus, gpus = sweep.resources.all_held
    fit = int(min(total_cpus() / cpus, total_gpus() / gpus if gpus else math.inf))
    return sweep.model_copy(update={"concurrent": max(1, min(fit, sweep.concurrent or fit))})


def _in_rounds(shared: Shared, reporter: Reporter) -> None:
    sweep, sign = shared.sweep, shared.sweep.sign
    plan: Plan = (HyperBand if sweep.scheduler.name == "hyperband" else Population)(sweep, sign)
    with reporter.work("sweep, epochs", plan.epochs) as work:
        Rounds(plan, train_part, shared, work, sign, _TRIES + 1).run()


def _one_by_one(shared: Shared, ledger: Ledger, reporter: Reporter) -> None:
    sweep = shared.sweep
    ended = {trial.name for trial in ledger.ended()}
    for name in ended:
        # A kill after its record, and before this, left it.
        ledger.state(name).delete()
    left = [index for index in range(sweep.runs) if trial_name(index) not in ended]
    with reporter.work("sweep", sweep.runs) as work:
        if ended:
            work.advance(sweep.runs - len(left), f"{sweep.runs - len(left)} trials were there already")
        watch = _Watch(ledger, work, sweep)
        for chances in reversed(range(_TRIES + 1)):
            if not left:
                break
            # Tune sends what it tries again to the actors of a node that has just died, until it gives up.
            watch.chances, watch.lost = chances, set()
            _tune(shared, ledger, left, watch)
            left = [index for index in left if trial_name(index) in watch.lost]


def _tune(shared: Shared, ledger: Ledger, left: list[int], watch: "_Watch") -> None:
    sweep = shared.sweep
    mode = "min" if sweep.metric == "nll" else "max"
    cpus, gpus = sweep.resources.held
    # A trial that fails in its first epoch reports nothing; without this it would end the whole sweep.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    # The ledger is the state; Tune's own is not used.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    proposals = Proposals(sweep, ledger.trials())
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, shared=shared), {"cpu": cpus, "gpu": gpus}),
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearch(proposals, left, sweep.metric, mode, ledger.epochs, watch.begun),
            scheduler=_scheduler(sweep, mode),
            num_samples=len(left),
            max_concurrent_trials=sweep.concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(shared.folder.parent / "ray"),
            callbacks=[watch],
            # What Python raises is caught in the trial; this is a process or a node that died. The same
            # settings give the same weights, so who is run again ends as if nothing had happened.
            failure_config=tune.FailureConfig(max_failures=_TRIES),
            verbose=0,
        ),
    )
    tuner.fit()


def run_trial(config: dict[str, Any], shared: Shared) -> None:
    """One trial, in a worker of Ray Tune, which hears of each epoch, or of the end of what others trained."""
    name = config["name"]
    if shared.sweep.resources.workers == 1:
        train_trial(name, config["config"], shared, tune.report)
        return
    train_together(name, config["config"], shared, tries=_TRIES + 1)
    record = Ledger(shared.folder).read(name)
    if record is not None and record.curve:
        tune.report(record.curve[-1])


def train_part(name: str, config: dict[str, Any], shared: Shared, until: int | None) -> None:
    """A trial's training up to an epoch, in a Ray task."""
    if shared.sweep.resources.workers == 1:
        train_trial(name, config, shared, None, until)
    else:
        train_together(name, config, shared, until, _TRIES + 1)


class _Watch(TrialProgressCallback):
    """Shows progress, and records in the ledger what the scheduler decided.

    It stands where Tune would otherwise put a callback that prints.
    """

    def __init__(self, ledger: Ledger, work: Work, sweep: Sweep) -> None:
        super().__init__()
        self._ledger, self._work, self._sweep = ledger, work, sweep
        self.begun, self._ended = time.monotonic(), 0
        self._tried = {trial.name: trial.tries for trial in ledger.trials()}
        self.chances = 0
        """How often what is lost is still run again."""
        self.lost = set[str]()
        """Names of trials that are to be run again."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore that is never used; a live terminal cannot be.
        return {}

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        """Print nothing."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = trial.config["name"]
        record = self._ledger.read(name)
        if record is None:
            return
        if record.status == "running":
            record.status = "stopped"
            self._ledger.write(record)
        self._ledger.state(name).delete()
        if record.status == "finished" and self._sweep.keep is not None:
            self._ledger.keep_best(self._sweep.keep, self._sweep.metric, self._sweep.sign)
        metric = self._sweep.metric
        self._told(record, record.error or f"{metric} {record.last(metric):.4f}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # The worker died, and so did those after it: run_trial itself catches what Python can raise.
        name = trial.config["name"]
        record = self._ledger.read(name) or Trial(name, trial.config["config"])
        tries = record.tries - self._tried.get(name, 0)
        if self.chances and tries <= _TRIES:
            self.lost.add(name)
            return
        record.status = "failed"
        record.error = f"the worker was lost {max(tries, 1)} times: {_reason(trial)}; out of memory?"
        self._ledger.write(record)
        self._ledger.state(name).delete()
        self._told(record, record.error)

    def _told(self, record: Trial, what: str) -> None:
        """Say what became of a trial, which is the best so far, and how long the rest will take."""
        self._ended += 1
        metric = self._sweep.metric
        best = self._ledger.best(metric, self._sweep.sign)
        left = self._sweep.runs - sum(trial.status != "running" for trial in self._ledger.trials())
        seconds = (time.monotonic() - self.begun) / self._ended * max(0, left)
        note = f"{record.status} trial {record.name}: {what}"
        if best is not None:
            note += f"; best {best.name} {best.last(metric):.4f}"
        self._work.advance(1, f"{note}; {clock(seconds)} left")


def _reason(trial: Any) -> str:
    """Return the first sentence of why Tune gave a trial up; Ray's advice that follows fills a screen."""
    # Tune's own get_error looks where nothing has been copied to yet.
    path = Path(trial.error_file) if trial.error_file else None
    lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no reason known")
    return last.partition(". ")[0].rstrip(".")


def _scheduler(sweep: Sweep, mode: str) -> TrialScheduler:
    if sweep.scheduler.name == "none":
        return FIFOScheduler()
    if sweep.scheduler.name == "median":
        return MedianStoppingRule(
            time_attr="epoch",
            metric=sweep.metric,
            mode=mode,
            grace_period=sweep.scheduler.grace,
            min_samples_required=3,
        )
    most = max(settings(sweep.train, {"epochs": value}).epochs for value in _epochs(sweep))
    return ASHAScheduler(
        time_attr="epoch",
        metric=sweep.metric,
        mode=mode,
        grace_period=min(sweep.scheduler.grace, most),
        max_t=most,
        reduction_factor=sweep.scheduler.reduction,
    )


def _epochs(sweep: Sweep) -> list[int]:
    return [sweep.train.epochs, *next(iter(sweep.space.get("epochs", {"": []}).values()))]
