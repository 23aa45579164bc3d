"""The sweep: Ray Tune runs the trials that the ledger lacks, each from the shared start."""

import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from ray_app.errors import RunError
from ray_app.methods.encoders import Encoder
from ray_app.metrics.classification import accuracy, nll
from ray_app.progress import Reporter, Work
from ray_app.spec import Method
from ray_app.spec.train import settings
from ray_app.spec.tune import Sweep
from ray_app.tune.ledger import Ledger, Trial
from ray_app.tune.search import LedgerSearch, Proposals, trial_name
from ray_app.tune.start import Start, build_model, fine_tune
from ray_app.tune.store import read_state, write_state
from ray_app.tune.training import Epoch, Rows, logits_of


@dataclass(frozen=True)
class Shared:
    """What every trial of a sweep reads; it travels once, by reference."""

    model: Method
    num_classes: int
    sweep: Sweep
    start: Start
    teacher: Start | None
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
    ended = {trial.name for trial in ledger.ended()}
    left = [index for index in range(sweep.trials) if trial_name(index) not in ended]
    with reporter.work("sweep", sweep.trials) as work:
        if ended:
            work.advance(sweep.trials - len(left), f"{sweep.trials - len(left)} trials were there already")
        if left:
            _tune(shared, ledger, left, work)
    if not any(trial.status == "finished" for trial in ledger.trials()):
        errors = [trial.error for trial in ledger.trials() if trial.error] or ["no trial finished"]
        raise RunError(f"every trial failed; the first error: {errors[0]} (records: {ledger.folder})")
    return ledger


def _tune(shared: Shared, ledger: Ledger, left: list[int], work: Work) -> None:
    sweep = shared.sweep
    mode = "min" if sweep.metric == "nll" else "max"
    resources = {"cpu": sweep.resources.cpu, "gpu": sweep.resources.gpu}
    # A trial that fails in its first epoch reports nothing; without this it would end the whole sweep.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    # The ledger is the state; Tune's own is not used.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, shared=shared), resources),
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearch(Proposals(sweep, ledger.trials()), left, sweep.metric, mode),
            scheduler=_scheduler(sweep, mode),
            num_samples=len(left),
            max_concurrent_trials=sweep.concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(shared.folder.parent / "ray"),
            callbacks=[_Watch(ledger, work, sweep.metric)],
            verbose=0,
        ),
    )
    tuner.fit()


def run_trial(config: dict[str, Any], shared: Shared) -> None:
    """One trial, in a Ray worker: train from the start, report each epoch, leave the weights.

    An error is recorded and ends this trial only.
    """
    ledger = Ledger(shared.folder)
    trial = Trial(config["name"], config["config"])
    ledger.write(trial)
    torch.set_num_threads(max(1, int(shared.sweep.resources.cpu)))
    training, validation = ray.get([shared.training, shared.validation])
    try:
        how = settings(shared.sweep.train, trial.config)
        encoder = _encoder(shared, shared.start)
        sign = -1.0 if shared.sweep.metric == "nll" else 1.0

        def judge() -> tuple[float, dict[str, float]]:
            proba = torch.softmax(logits_of(encoder, validation), 1).numpy()
            labels = validation.labels.numpy()
            found = {"accuracy": accuracy(proba, labels), "nll": nll(proba, labels)}
            return sign * found[shared.sweep.metric], found

        def on_epoch(epoch: Epoch) -> None:
            trial.curve.append({**epoch.logged, "epoch": epoch.number})
            if epoch.last:
                write_state(ledger.weights(trial.name), encoder.state_dict())
                trial.status = "finished"
            ledger.write(trial)
            tune.report(trial.curve[-1])

        teacher = _encoder(shared, shared.teacher) if shared.teacher is not None else None
        rows = training[slice(shared.sweep.rows)]
        fine_tune(encoder, rows, how, on_epoch, judge=judge, teacher=teacher)
    except Exception as error:  # noqa: BLE001  # whatever it is, it ends this trial only, and is kept
        trial.status, trial.error = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
        ledger.write(trial)
        (ledger.folder / trial.name / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")


def _encoder(shared: Shared, start: Start) -> Encoder:
    encoder = build_model(shared.model, shared.num_classes)
    encoder.load_state_dict(read_state(start.path))
    return encoder.to("cuda" if shared.sweep.resources.gpu and torch.cuda.is_available() else "cpu")


class _Watch(TrialProgressCallback):
    """Shows progress, and records in the ledger what the scheduler decided.

    It stands where Tune would otherwise put a callback that prints.
    """

    def __init__(self, ledger: Ledger, work: Work, metric: str) -> None:
        super().__init__()
        self._ledger, self._work, self._watched = ledger, work, metric

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
        note = f"{record.status} trial {name}: " + (
            record.error or f"{self._watched} {record.last(self._watched):.4f}"
        )
        self._work.advance(1, note)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # The worker died: run_trial itself catches what Python can raise.
        record = self._ledger.read(trial.config["name"]) or Trial(
            trial.config["name"], trial.config["config"]
        )
        record.status, record.error = "failed", f"the worker was lost: {_last_line(trial)}"
        self._ledger.write(record)
        self._work.advance(1, f"failed trial {record.name}: {record.error}")


def _last_line(trial: Any) -> str:
    error = str(trial.get_error() or "no reason known").strip()
    return error.splitlines()[-1]


def _scheduler(sweep: Sweep, mode: str) -> TrialScheduler:
    if sweep.scheduler.name == "none":
        return FIFOScheduler()
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
