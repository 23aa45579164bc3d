"""The record of a sweep: which weights are kept, whatever order trials finish in."""

import itertools
import random
from pathlib import Path

import torch

from ray_app.tune.ledger import Ledger, Trial
from ray_app.tune.store import write_state

VALUES = {"00000": 0.5, "00001": 0.9, "00002": 0.9, "00003": 0.1, "00004": 0.7}


def finish(ledger: Ledger, name: str, value: float) -> None:
    write_state(ledger.weights(name), {"w": torch.full((2,), value)})
    ledger.write(Trial(name, {}, "finished", [{"accuracy": value}]))


def test_the_same_weights_are_kept_in_whatever_order_trials_finish(tmp_path: Path) -> None:
    orders = random.Random(0).sample(list(itertools.permutations(VALUES)), 20)  # noqa: S311
    for place, order in enumerate(orders):
        ledger = Ledger(tmp_path / str(place))
        for name in order:
            finish(ledger, name, VALUES[name])
            ledger.keep_best(2, "accuracy", 1.0)
            there = [path.parent.name for path in ledger.folder.glob("*/candidate.safetensors")]
            assert len(there) <= 2
        assert [candidate.name for candidate in ledger.candidates("accuracy", 1.0)] == ["00001", "00002"]
        # Dropped trials need not run again, and stay on the leaderboard.
        assert len(ledger.ended()) == len(VALUES)
        assert ledger.table("accuracy", 1.0)["trial"].to_pylist()[-1] == "00003"
        best = ledger.best("accuracy", 1.0)
        assert best is not None
        assert best.name == "00001"


def test_a_finished_trial_whose_weights_are_gone_runs_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    finish(ledger, "00000", 0.5)
    ledger.weights("00000").unlink()
    assert ledger.ended() == []
