"""Trials of several processes: the same weights as of one, whatever dies meanwhile."""

import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_app.errors import SpecError
from ray_app.progress import Silent
from ray_app.spec import Method
from ray_app.spec.train import Train
from ray_app.spec.tune import TuneSpec
from ray_app.tune.ledger import Ledger
from ray_app.tune.run import TuneRun, run
from ray_app.tune.start import build_model, objective_for
from ray_app.tune.store import read_state
from ray_app.tune.team import check
from tests.processes import descendants, kill
from tests.tune.specs import TINY, tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(300)]

# Layer norm, and no dropout: then k processes make the steps of one.
VIT = {"name": "timm", "model": "test_vit", "channels": 1, "image_size": 32}
# 95 rows in batches of 24 and a last one of 23: shares are not all alike.
TRAIN = {"epochs": 3, "batch_size": 12, "accumulate": 2, "lr": 1e-3, "augment": {"noise": 0.1, "shift": 0.1}}


def spec(changes: dict[str, Any] | None = None, **resources: Any) -> TuneSpec:
    return tiny(
        model=VIT,
        stages=[],
        sweep={
            **TINY["sweep"],
            "trials": 2,
            "rows": 95,
            "train": TRAIN,
            "space": {"lr": {"choice": [2e-3]}},
            "resources": resources,
            **(changes or {}),
        },
        combine={},
        export={"choose": "single"},
    )


def sweep(folder: Path, changes: dict[str, Any] | None = None, **resources: Any) -> TuneRun:
    return run(spec(changes, **resources), folder, Silent())


def alike(one: TuneRun, other: TuneRun) -> None:
    """Curves and weights are the same but for rounding."""
    ledgers = [Ledger(made.folder / "trials") for made in (one, other)]
    trials = [ledger.trials() for ledger in ledgers]
    assert [(t.name, t.status, t.error) for t in trials[0]] == [
        (t.name, t.status, t.error) for t in trials[1]
    ]
    for first, second in zip(*trials, strict=True):
        for left, right in zip(first.curve, second.curve, strict=True):
            assert left == pytest.approx(right, rel=1e-4)
        if first.status == "finished":
            states = [read_state(ledger.weights(first.name)) for ledger in ledgers]
            assert states[0].keys() == states[1].keys()
            for key in states[0]:
                torch.testing.assert_close(states[1][key], states[0][key], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def alone(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> TuneRun:
    return sweep(tmp_path_factory.mktemp("alone") / "out")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_make_the_steps_of_one(parallel: str, alone: TuneRun, tmp_path: Path) -> None:
    together = sweep(tmp_path / "out", workers=2, parallel=parallel)
    alike(alone, together)
    assert together.leaderboard["trial"].to_pylist() == alone.leaderboard["trial"].to_pylist()
    assert {path.name for path in (together.folder / "ray" / "train").glob("0*")} == {
        "00000-0-end",
        "00001-0-end",
    }


def test_rounds_go_on_from_states_that_were_shared_out(tmp_path: Path) -> None:
    rounds = {
        "trials": 3,
        "train": {**TRAIN, "epochs": 4},
        "scheduler": {"name": "hyperband", "reduction": 2, "grace": 2},
        "space": {"lr": {"loguniform": [5e-4, 4e-3]}},
    }
    one = sweep(tmp_path / "one", rounds)
    alike(one, sweep(tmp_path / "several", rounds, workers=2, parallel="fsdp"))
    assert "stopped" in one.leaderboard["status"].to_pylist()


def test_a_worker_that_dies_is_begun_again_and_changes_nothing(alone: TuneRun, tmp_path: Path) -> None:
    killed: list[int] = []
    ended = threading.Event()

    def deadly() -> None:
        while not ended.wait(0.05) and not killed:
            one = Ledger(tmp_path / "out" / "trials").read("00000")
            if one is None or not one.curve:
                continue
            for pid in descendants():
                with suppress(OSError):
                    if "RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
                        kill(pid)
                        killed.append(pid)
                        break

    killer = threading.Thread(target=deadly)
    killer.start()
    try:
        together = sweep(tmp_path / "out", {"save_every_s": 0}, workers=2)
    finally:
        ended.set()
        killer.join()
    assert killed
    assert Ledger(together.folder / "trials").read("00000").tries == 2
    alike(alone, together)


def test_what_explodes_fails_its_trial_with_the_reason(tmp_path: Path) -> None:
    explodes = {"space": {"lr": {"choice": [9.0]}}, "train": {**TRAIN, "clip": None, "weight_decay": 9.0}}
    made = sweep(tmp_path / "out", {**explodes, "train": {**explodes["train"], "lr": 1e-5}}, workers=2)
    trials = Ledger(made.folder / "trials").trials()
    assert [trial.status for trial in trials] == ["finished", "failed"]
    assert re.match(r"FloatingPointError: .+ at step \d+; lower lr \(9\)$", trials[1].error)


@pytest.mark.parametrize(
    ("resources", "changes", "message"),
    [
        ({"workers": 2, "gpu": 0.5}, {}, "needs a GPU of its own, got 0.5"),
        ({"workers": 2}, {"scheduler": {"name": "asha"}}, "use hyperband"),
        ({"workers": 0}, {}, "greater than or equal to 1"),
        ({"workers": 2, "parallel": "pipeline"}, {}, "'ddp' or 'fsdp'"),
    ],
)
def test_what_cannot_work_is_refused(resources: dict, changes: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec(changes, **resources)


def test_more_workers_than_the_cluster_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"99.01 CPUs asked for, the cluster has 4"):
        sweep(tmp_path / "out", workers=99)


def test_what_they_cannot_train_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    given = tiny(stages=[], sweep={**TINY["sweep"], "resources": {"workers": 2}})
    with pytest.raises(SpecError, match=r"^sweep.resources.workers: each process would normalise"):
        run(given, tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("parallel", "train", "model", "message"),
    [
        ("ddp", {}, TINY["model"], "normalise by its own share of a batch"),
        ("ddp", {"objective": "early_learning"}, VIT, "early_learning looks at all rows"),
        ("fsdp", {"adapter": "bitfit"}, VIT, "bitfit alters them; use ddp"),
        ("fsdp", {"ema": 0.9}, VIT, "for ema; use ddp"),
        (
            "fsdp",
            {"objective": ["cross_entropy", "gradient_noise"]},
            VIT,
            "gradient_noise has weights of its own",
        ),
    ],
)
def test_what_several_processes_cannot_train_is_refused(
    parallel: str, train: dict, model: dict, message: str
) -> None:
    how = Train.model_validate(train)
    encoder = build_model(Method.model_validate(model), 10)
    adapter = how.adapter.build("adapters") if how.adapter is not None else None
    with pytest.raises(ValueError, match=message) as error:
        check(parallel, encoder, objective_for(how, encoder), adapter, how)
    assert "\n" not in str(error.value)
