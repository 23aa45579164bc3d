"""One trial: it trains from the shared start, its record is written each epoch, its weights at the end."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch

from ray_app.errors import RunError
from ray_app.methods.encoders import Encoder
from ray_app.metrics.classification import accuracy, nll
from ray_app.session import keep_freed_memory
from ray_app.spec import Method
from ray_app.spec.train import settings
from ray_app.spec.tune import Sweep
from ray_app.tune.combine import Kept
from ray_app.tune.ledger import Ledger, Trial
from ray_app.tune.start import build_model, fine_tune
from ray_app.tune.store import file_key, write_state
from ray_app.tune.team import Team
from ray_app.tune.training import Epoch, Rows, logits_of

if TYPE_CHECKING:
    from ray_app.methods import StateDict

KEPT = "kept"
"""Folder of a run: logits that were computed once."""
# What all processes of a team meet alike. Of anything else the others hear when they wait in vain.
_ALIKE = (FloatingPointError, ValueError, RunError)


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


def train_trial(
    name: str,
    config: dict[str, Any],
    shared: Shared,
    report: Callable[[dict[str, float]], None] | None = None,
    until: int | None = None,
    team: Team | None = None,
) -> None:
    """Train a trial from the start, or from where it was killed, and leave its weights.

    Its record is written each epoch. An error is recorded and ends this trial only.

    Args:
        name: The trial's.
        config: Its settings, over the defaults.
        shared: What it reads.
        report: Hears of each epoch, after the record.
        until: Stop after this epoch, to go on later; None: train to the end.
        team: This process among several that train it; the first one writes.

    Raises:
        Exception: In a team, what not all of its processes meet: the others have to be told.
    """
    ledger = Ledger(shared.folder)
    saved = ledger.state(name, shared.sweep.save_every_s)
    trial = ledger.read(name) or Trial(name, config)
    leads = team is None or team.leads
    trial.status, trial.error, trial.config, trial.tries = "running", None, config, trial.tries + 1
    torch.set_num_threads(max(1, int(shared.sweep.resources.cpu)))
    keep_freed_memory()
    try:
        # What was trained after the state was saved is trained again, and told again.
        done = saved.epoch
        trial.seconds *= done / max(1, len(trial.curve))
        trial.curve = trial.curve[:done]
        if leads:
            ledger.write(trial)
        training, validation = ray.get([shared.training, shared.validation])
        begun = time.perf_counter() - trial.seconds
        how = settings(shared.sweep.train, config)
        encoder = _encoder(shared, shared.start)

        def judge() -> tuple[float, dict[str, float]]:
            proba = torch.softmax(logits_of(encoder, validation, team=team), 1).numpy()
            labels = validation.labels.numpy()
            found = {"accuracy": accuracy(proba, labels), "nll": nll(proba, labels)}
            return shared.sweep.sign * found[shared.sweep.metric], found

        def on_epoch(epoch: Epoch) -> None:
            trial.curve.append({**epoch.logged, "epoch": epoch.number})
            trial.seconds = time.perf_counter() - begun
            if epoch.last:
                _leave(shared, ledger.weights(trial.name), encoder, validation, team)
                trial.status = "finished"
            elif how.cycles > 1 and epoch.number % (how.epochs // how.cycles) == 0:
                cycle = epoch.number // (how.epochs // how.cycles)
                weights = _weights(encoder, team)
                if leads:
                    write_state(ledger.snapshot(trial.name, cycle), weights)
            if leads:
                ledger.write(trial)
            if report is not None:
                report(trial.curve[-1])

        teacher = _encoder(shared, shared.teacher) if shared.teacher is not None else None
        rows = training[slice(shared.sweep.rows)]
        fine_tune(
            encoder,
            rows,
            how,
            on_epoch,
            judge=judge,
            teacher=teacher,
            saved=saved,
            until=until,
            team=team,
        )
    except Exception as error:  # whatever it is, it ends this trial only, and is kept
        if team is not None and not isinstance(error, _ALIKE):
            raise
        if leads:
            fail(ledger, trial, error)


def fail(ledger: Ledger, trial: Trial, error: Exception) -> None:
    """Record that an error ended a trial, and leave all of it beside the record."""
    trial.status, trial.error = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
    ledger.write(trial)
    told = "".join(traceback.format_exception(error))
    (ledger.folder / trial.name / "error.txt").write_text(told, encoding="utf-8")


def _leave(shared: Shared, path: Path, encoder: Encoder, validation: Rows, team: Team | None) -> None:
    """Write a trial's weights, and beside them the logits that combiners will ask for."""
    weights, logits = _weights(encoder, team), logits_of(encoder, validation, team=team)
    if team is not None and not team.leads:
        return
    write_state(path, weights)
    Kept(shared.folder.parent / KEPT).keep_logits(file_key(path), validation, logits)


def _weights(encoder: Encoder, team: Team | None) -> "StateDict":
    weights: StateDict = encoder.state_dict() if team is None else team.whole(encoder)[0]
    return weights


def _encoder(shared: Shared, weights: "ray.ObjectRef[StateDict]") -> Encoder:
    encoder = build_model(shared.model, shared.num_classes)
    state: StateDict = ray.get(weights)
    encoder.load_state_dict(state)
    return encoder.to("cuda" if shared.sweep.resources.gpu and torch.cuda.is_available() else "cpu")
