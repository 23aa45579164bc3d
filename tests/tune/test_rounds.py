"""Rounds of trials on local Ray: lost workers, limits, and kills of the driver."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_app.errors import RunError
from ray_app.progress import Silent
from ray_app.spec import parse
from ray_app.spec.tune import Sweep
from ray_app.tune.hyperband import HyperBand
from ray_app.tune.ledger import Ledger, Trial
from ray_app.tune.pbt import Population
from ray_app.tune.rounds import Rounds
from ray_app.tune.store import write_state

SPACE = {"lr": {"loguniform": [1e-4, 1e-1]}}
EPOCHS = 4


def sweep(name: str, **content: Any) -> Sweep:
    """Return a sweep of seven trials at most, with a reduction of two."""
    scheduler = {"name": name, "reduction": 2}
    given = {"trials": 7, "scheduler": scheduler, "train": {"epochs": EPOCHS}, "space": SPACE, **content}
    return parse(given, Sweep, "sweep")


def pretend(name: str, config: dict[str, Any], shared: Any, *, until: int | None) -> None:
    """Leave what train_trial would, without training; die where the test says so."""
    ledger = Ledger(shared.folder)
    until = until or EPOCHS
    begun = time.monotonic()
    if shared.deadly.get(name, 0) > len(list(shared.log.glob(f"died-{name}-*"))):
        (shared.log / f"died-{name}-{time.monotonic_ns()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    trial = ledger.read(name)
    assert trial is not None
    assert trial.config == config
    saved = ledger.state(name)
    for epoch in range(saved.epoch + 1, until + 1):
        trial.curve = [
            *trial.curve[: epoch - 1],
            {"accuracy": trial.config.get("lr", 0.0) + epoch, "epoch": epoch},
        ]
        (shared.log / f"epoch-{name}-{epoch}-{time.monotonic_ns()}").touch()
    if until == EPOCHS:
        trial.status = "finished"
        write_state(ledger.weights(name), {})
    else:
        saved.write(until, {})
    ledger.write(trial)
    time.sleep(shared.seconds)
    (shared.log / f"part-{name}-{until}-{begun}-{time.monotonic()}").touch()


def play(folder: Path, spec: Sweep, **given: Any) -> dict[str, Trial]:
    """Run a sweep of pretended trials; return its records."""
    (folder / "log").mkdir(parents=True, exist_ok=True)
    tries = given.pop("tries", 3)
    options = {"deadly": {}, "seconds": 0.0, **given}
    shared: Any = SimpleNamespace(sweep=spec, folder=folder / "trials", log=folder / "log", **options)
    plan = (HyperBand if spec.scheduler.name == "hyperband" else Population)(spec, 1.0)
    with Silent().work("", plan.epochs) as work:
        Rounds(plan, pretend, shared, work, 1.0, tries).run()
    return {trial.name: trial for trial in Ledger(folder / "trials").trials()}


@pytest.mark.usefixtures("ray_session")
def test_a_lost_worker_changes_nothing(tmp_path: Path) -> None:
    expected = play(tmp_path / "quiet", sweep("pbt"))
    assert {trial.status for trial in expected.values()} == {"finished"}
    assert play(tmp_path / "loud", sweep("pbt"), deadly={"00003": 1}) == expected
    assert len(list((tmp_path / "loud" / "log").glob("died-*"))) == 1
    # Nothing that was done is done again, and no state stays behind.
    epochs = [path.name.rpartition("-")[0] for path in (tmp_path / "loud" / "log").glob("epoch-*")]
    assert len(set(epochs)) == len(epochs) == 7 * EPOCHS
    assert not list((tmp_path / "loud" / "trials").glob("*/state/*"))


@pytest.mark.usefixtures("ray_session")
def test_who_is_lost_each_time_has_failed_and_the_others_go_on(tmp_path: Path) -> None:
    trials = play(tmp_path, sweep("hyperband", keep=1), deadly={"00002": 99}, tries=2)
    assert trials["00002"].status == "failed"
    assert "begun 2 times without an end: the worker was lost" in (trials["00002"].error or "")
    assert {trial.status for trial in trials.values() if trial.name != "00002"} == {"finished", "stopped"}
    assert not list((tmp_path / "trials").glob("*/state/*"))
    assert len(list((tmp_path / "trials").glob("*/candidate.safetensors"))) == 1
    # Run again, nothing is left to do.
    parts = set((tmp_path / "log").iterdir())
    assert play(tmp_path, sweep("hyperband", keep=1), deadly={"00002": 99}) == trials
    assert set((tmp_path / "log").iterdir()) == parts


@pytest.mark.usefixtures("ray_session")
def test_no_more_at_a_time_than_said_and_none_beyond_the_budget(tmp_path: Path) -> None:
    spec = sweep("hyperband", concurrent=2, budget={"epochs": 9})
    trials = play(tmp_path, spec, seconds=0.02)
    spans = sorted(tuple(map(float, path.name.split("-")[-2:])) for path in (tmp_path / "log").glob("part-*"))
    assert all(sum(a <= begun < b for a, b in spans) <= 2 for begun, _ in spans)
    # The defaults come first, and are there in any case; two may run when it is spent.
    assert trials["00000"].status == "finished"
    spent = sum(len(trial.curve) for trial in trials.values())
    assert 9 <= spent < 9 + 2 * EPOCHS
    assert any(trial.status == "running" for trial in trials.values())
    # With more of it the same command goes on, to what it would have been.
    assert play(tmp_path, sweep("hyperband")) == play(tmp_path / "whole", sweep("hyperband"))


@pytest.mark.usefixtures("ray_session")
def test_a_state_that_cannot_be_made_again_is_missed(tmp_path: Path) -> None:
    trials = play(tmp_path, sweep("pbt"))
    ledger = Ledger(tmp_path / "trials")
    copied = next(trial for trial in trials.values() if len(trial.lineage) > 1)
    ledger.weights(copied.name).unlink()
    with pytest.raises(RunError, match=f"{copied.name}: its state is gone, .* begin the sweep anew"):
        play(tmp_path, sweep("pbt"))
    ledger.weights("00000").unlink()
    write_state(ledger.weights(copied.name), {})
    # The defaults only hang on themselves.
    assert play(tmp_path, sweep("pbt")) == trials
