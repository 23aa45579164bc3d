"""Rounds of trials on local Ray: lost workers, limits, and kills of the driver."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import yaml

from ray_app.errors import RunError
from ray_app.progress import Silent
from ray_app.spec import parse
from ray_app.spec.tune import Sweep, TuneSpec
from ray_app.tune.hyperband import HyperBand
from ray_app.tune.ledger import Ledger, Trial
from ray_app.tune.pbt import Population
from ray_app.tune.report import write_report
from ray_app.tune.rounds import Rounds
from ray_app.tune.run import run
from ray_app.tune.store import write_state
from tests.processes import descendants
from tests.tune.specs import TINY

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


SMALL = {
    "stages": [],
    "combine": {},
    "export": {"choose": "single", "heads": {}, "detectors": {}},
}
SWEEPS: dict[str, dict[str, Any]] = {
    "hyperband": {"trials": 6, "scheduler": {"name": "hyperband", "reduction": 2}},
    "pbt": {"trials": 4, "scheduler": {"name": "pbt", "interval": 1, "quantile": 0.5}},
}


def content(name: str) -> dict[str, Any]:
    """Return a spec of real trials, of a second or less each."""
    train = {"epochs": EPOCHS, "batch_size": 20, "lr": 3e-3}
    return {**TINY, **SMALL, "sweep": {**TINY["sweep"], "train": train, **SWEEPS[name]}}


def told(folder: Path) -> dict[str, Any]:
    """Return all that two runs of a sweep have in common: not how long it took, nor how often."""
    trials = Ledger(folder / "trials").trials()
    return {t.name: {k: v for k, v in vars(t).items() if k not in ("seconds", "tries")} for t in trials}


def decided(trials: dict[str, Any]) -> bool:
    """Whether somebody was stopped, or goes on from another."""
    return any(trial["status"] == "stopped" or len(trial["lineage"]) > 1 for trial in trials.values())


def trainers() -> list[int]:
    """Return the processes of this test's Ray that train for somebody at the moment."""
    found = []
    for pid in descendants():
        with suppress(OSError):
            if "train_trial" in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
                found.append(pid)
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", list(SWEEPS))
def test_a_killed_sweep_goes_on_in_its_round_and_ends_the_same(tmp_path: Path, name: str) -> None:
    spec = parse(content(name), TuneSpec, "small")
    undisturbed = run(spec, tmp_path / "undisturbed", Silent())
    folder, path, log = tmp_path / "out", tmp_path / "small.yaml", tmp_path / "log"
    path.write_text(yaml.safe_dump(content(name)))
    # The driver is a process of its own on the same cluster.
    command = [
        sys.executable,
        "-c",
        "from ray_app.cli import main; main()",
        "tune",
        str(path),
        "--out",
        str(folder),
    ]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with log.open("wb") as file:
        driver = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    end = time.monotonic() + 60
    # In the midst of the second round: a decision was made, and not all have come to the next one.
    while not decided(told(folder)):
        assert driver.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    while trainers():
        assert time.monotonic() < end, "Ray left a killed driver's tasks alone"
        time.sleep(0.05)
    before = told(folder)
    assert any(trial["status"] == "running" for trial in before.values())
    states = {name: Ledger(folder / "trials").state(name).epoch for name in before}
    assert any(states.values())
    disturbed = run(spec, folder, Silent())
    assert told(folder) == told(tmp_path / "undisturbed")
    assert disturbed.leaderboard.equals(undisturbed.leaderboard)
    assert disturbed.bundle.version == undisturbed.bundle.version
    assert not list((folder / "trials").glob("*/state"))
    assert "trial" in write_report(disturbed).read_text()
    if name == "pbt":
        changes = [change for trial in told(folder).values() for change in trial["lineage"]]
        assert {change["epoch"] for change in changes} == {0, 1, 2, 3}
        assert told(folder)["00000"]["lineage"] == [{"epoch": 0, "parent": None, "config": {}}]


@pytest.mark.usefixtures("ray_session")
def test_the_defaults_in_a_population_are_what_they_are_alone(tmp_path: Path) -> None:
    population = run(parse(content("pbt"), TuneSpec, "small"), tmp_path / "population", Silent())
    alone = content("pbt")
    alone["sweep"] = {**alone["sweep"], "trials": 1, "scheduler": "none"}
    alone["sweep"]["scheduler"] = {"name": "none"}
    run(parse(alone, TuneSpec, "alone"), tmp_path / "alone", Silent())
    weights = [Ledger(tmp_path / one / "trials").weights("00000") for one in ("population", "alone")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert (
        population.leaderboard["accuracy"][0].as_py()
        >= told(tmp_path / "alone")["00000"]["curve"][-1]["accuracy"]
    )
