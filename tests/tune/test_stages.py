"""Stages that name their start and their teacher, and a sweep with an adapter, averages and patience."""

from pathlib import Path

import pytest
import torch

from ray_app.progress import Silent
from ray_app.tune.ledger import Ledger
from ray_app.tune.run import run
from ray_app.tune.store import read_json, read_state
from tests.tune.specs import tiny

QUICK = {"epochs": 1, "batch_size": 50, "lr": 3e-3}
STAGES = [
    {"name": "base", "rows": 100, "train": {**QUICK, "objective": "in_batch_contrastive"}},
    {"name": "labeller", "rows": 100, "train": QUICK},
    {
        "name": "pseudo",
        "rows": 150,
        "start": "base",
        "teacher": "labeller",
        "train": {**QUICK, "objective": ["pseudo_label", {"name": "gradient_noise", "eta": 1e-6}]},
    },
]


@pytest.mark.slow
def test_a_run_follows_its_stages_and_its_settings(ray_session: None, tmp_path: Path) -> None:
    train = {**QUICK, "epochs": 3, "patience": 1, "ema": 0.9, "adapter": "bitfit", "augment": {"mixup": 0.2}}
    spec = tiny(
        stages=STAGES,
        sweep={"trials": 2, "train": train, "space": {"lr": {"loguniform": [1e-3, 1e-2]}}},
    )
    made = run(spec, tmp_path / "out", Silent())
    places = {
        path.parent.name.partition("-")[0]: path.parent for path in made.folder.glob("stages/*/stage.json")
    }
    assert sorted(places) == ["base", "labeller", "pseudo"]
    states = {name: read_state(place / "weights.safetensors") for name, place in places.items()}
    assert set(read_json(places["pseudo"] / "stage.json")["curve"][0]) == {
        "loss",
        "pseudo_label.loss",
        "pseudo_label.accuracy",
        "pseudo_label.kept",
    }
    # Pseudo labels began from base, from which it is nearer than from the labeller.
    first = next(name for name, tensor in states["base"].items() if tensor.ndim == 4)
    gap = {name: (states["pseudo"][first] - states[name][first]).norm() for name in ("base", "labeller")}
    assert gap["base"] < gap["labeller"]
    ledger = Ledger(made.folder / "trials")
    start = read_state(next(made.folder.glob("stages/start-*/weights.safetensors")))
    for trial in ledger.trials():
        assert trial.status == "finished", trial.error
        state = read_state(ledger.weights(trial.name))
        # The adapter was merged: the plain architecture, in which no matrix moved but the classifier's.
        assert state.keys() == start.keys()
        moved = {name for name in state if not torch.equal(state[name], start[name])}
        matrices = [name for name in moved if state[name].ndim > 1]
        assert len(matrices) == 1
        assert trial.last("accuracy") == max(epoch["accuracy"] for epoch in trial.curve)
