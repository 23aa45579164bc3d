"""The sweep: Ray Tune runs the trials that the ledger lacks, each from the shared start."""

import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from ray_app.errors import RunError
from ray_app.methods.encoders import Encoder
from ray_app.metrics.classification import accuracy, nll
from ray_app.progress import Reporter, Work
from ray_app.session import keep_freed_memory
from ray_app.spec import Method
from ray_app.spec.train import settings
from ray_app.spec.tune import Sweep
from ray_app.tune.combine import Kept
from ray_app.tune.hyperband import HyperBand
from ray_app.tune.ledger import Ledger, Trial
from ray_app.tune.pbt import Population
from ray_app.tune.plan import Plan
from ray_app.tune.rounds import Rounds, clock
from ray_app.tune.search import LedgerSearch, Proposals, trial_name
from ray_app.tune.start import build_model, fine_tune
from ray_app.tune.store import file_key, write_state
from ray_app.tune.training import Epoch, Rows, logits_of

if TYPE_CHECKING:
    from ray_app.methods import StateDict

# A process that dies of what it does dies each time.
_TRIES = 2
KEPT = "kept"
"""Folder of a run: logits that were computed once."""


@dataclass(frozen=True)
class Shared:
    """What every trial of a sweep reads; it travels once, by reference."""

    model: Method
    num_classes: int
    sweep: Sweep
    start: "ray.ObjectRef[StateDict]"
    """What all trials begin with; read once a node, as rows are."""
    teacher: "ray.ObjectRef[StateDict] | None"
    """What an objective that learns from a teacher asks."""
    training: "ray.ObjectRef[Rows]"
    """To Rows; read from the node's object store, without a copy."""
    validation: "ray.ObjectRef[Rows]"
    folder: Path
    """Absolute, of the ledger."""


def run_sweep(shared: Shared, reporter: Reporter) -> Ledger:
    """Run what is left of a sweep.

    Raises:
        RunError: Every trial failed; the message has the first error.
    """
    sweep, ledger = shared.sweep, Ledger(shared.folder)
    if sweep.scheduler.in_rounds:
        _in_rounds(shared, reporter)
    else:
        _one_by_one(shared, ledger, reporter)
    if sweep.keep is not None:
        # A run that was killed between a record and this would have kept more.
        ledger.keep_best(sweep.keep, sweep.metric, _sign(sweep))
    if not any(trial.status == "finished" for trial in ledger.trials()):
        errors = [trial.error for trial in ledger.trials() if trial.error] or ["no trial finished"]
        raise RunError(f"every trial failed; the first error: {errors[0]} (records: {ledger.folder})")
    return ledger


def _in_rounds(shared: Shared, reporter: Reporter) -> None:
    sweep, sign = shared.sweep, _sign(shared.sweep)
    plan: Plan = (HyperBand if sweep.scheduler.name == "hyperband" else Population)(sweep, sign)
    with reporter.work("sweep, epochs", plan.epochs) as work:
        Rounds(plan, train_trial, shared, work, sign, _TRIES + 1).run()


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
    resources = {"cpu": sweep.resources.cpu, "gpu": sweep.resources.gpu}
    # A trial that fails in its first epoch reports nothing; without this it would end the whole sweep.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    # The ledger is the state; Tune's own is not used.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    proposals = Proposals(sweep, ledger.trials())
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, shared=shared), resources),
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
    """One trial, in a worker of Ray Tune, which hears of each epoch."""
    train_trial(config["name"], config["config"], shared, tune.report)


def train_trial(
    name: str,
    config: dict[str, Any],
    shared: Shared,
    report: Callable[[dict[str, float]], None] | None = None,
    until: int | None = None,
) -> None:
    """Train a trial from the start, or from where it was killed, and leave its weights.

    Its record is written each epoch. An error is recorded and ends this trial only.

    Args:
        name: The trial's.
        config: Its settings, over the defaults.
        shared: What it reads.
        report: Hears of each epoch, after the record.
        until: Stop after this epoch, to go on later; None: train to the end.
    """
    ledger = Ledger(shared.folder)
    saved = ledger.state(name, shared.sweep.save_every_s)
    trial = ledger.read(name) or Trial(name, config)
    trial.status, trial.error, trial.config, trial.tries = "running", None, config, trial.tries + 1
    torch.set_num_threads(max(1, int(shared.sweep.resources.cpu)))
    keep_freed_memory()
    try:
        # What was trained after the state was saved is trained again, and told again.
        done = saved.epoch
        trial.seconds *= done / max(1, len(trial.curve))
        trial.curve = trial.curve[:done]
        ledger.write(trial)
        training, validation = ray.get([shared.training, shared.validation])
        begun = time.perf_counter() - trial.seconds
        how = settings(shared.sweep.train, config)
        encoder = _encoder(shared, shared.start)
        sign = _sign(shared.sweep)

        def judge() -> tuple[float, dict[str, float]]:
            proba = torch.softmax(logits_of(encoder, validation), 1).numpy()
            labels = validation.labels.numpy()
            found = {"accuracy": accuracy(proba, labels), "nll": nll(proba, labels)}
            return sign * found[shared.sweep.metric], found

        def on_epoch(epoch: Epoch) -> None:
            trial.curve.append({**epoch.logged, "epoch": epoch.number})
            trial.seconds = time.perf_counter() - begun
            if epoch.last:
                _leave(shared, ledger.weights(trial.name), encoder, validation)
                trial.status = "finished"
            elif how.cycles > 1 and epoch.number % (how.epochs // how.cycles) == 0:
                cycle = epoch.number // (how.epochs // how.cycles)
                write_state(ledger.snapshot(trial.name, cycle), encoder.state_dict())
            ledger.write(trial)
            if report is not None:
                report(trial.curve[-1])

        teacher = _encoder(shared, shared.teacher) if shared.teacher is not None else None
        rows = training[slice(shared.sweep.rows)]
        fine_tune(encoder, rows, how, on_epoch, judge=judge, teacher=teacher, saved=saved, until=until)
    except Exception as error:  # noqa: BLE001  # whatever it is, it ends this trial only, and is kept
        trial.status, trial.error = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
        ledger.write(trial)
        (ledger.folder / trial.name / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")


def _leave(shared: Shared, path: Path, encoder: Encoder, validation: Rows) -> None:
    """Write a trial's weights, and beside them the logits that combiners will ask for."""
    write_state(path, encoder.state_dict())
    kept = Kept(shared.folder.parent / KEPT)
    kept.keep_logits(file_key(path), validation, logits_of(encoder, validation))


def _encoder(shared: Shared, weights: "ray.ObjectRef[StateDict]") -> Encoder:
    encoder = build_model(shared.model, shared.num_classes)
    state: StateDict = ray.get(weights)
    encoder.load_state_dict(state)
    return encoder.to("cuda" if shared.sweep.resources.gpu and torch.cuda.is_available() else "cpu")


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
            self._ledger.keep_best(self._sweep.keep, self._sweep.metric, _sign(self._sweep))
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
        best = self._ledger.best(metric, _sign(self._sweep))
        left = self._sweep.runs - sum(trial.status != "running" for trial in self._ledger.trials())
        seconds = (time.monotonic() - self.begun) / self._ended * max(0, left)
        note = f"{record.status} trial {record.name}: {what}"
        if best is not None:
            note += f"; best {best.name} {best.last(metric):.4f}"
        self._work.advance(1, f"{note}; {clock(seconds)} left")


def _sign(sweep: Sweep) -> float:
    """What a metric is multiplied with to be higher for better."""
    return -1.0 if sweep.metric == "nll" else 1.0


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
