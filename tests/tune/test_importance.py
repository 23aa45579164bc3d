"""Importance: of studies whose answer is known."""

import math
from typing import Any

import numpy as np
import pytest

from ray_app.spec.tune import Sweep
from ray_app.tune.importance import LEAST, complete, importance
from ray_app.tune.ledger import Trial

SPACE: dict[str, dict[str, Any]] = {
    "lr": {"loguniform": [1e-4, 1e-1]},
    "weight_decay": {"uniform": [0.0, 0.1]},
    "optimizer": {"choice": ["adamw", "sgd"]},
}


def sweep_of(**changes: Any) -> Sweep:
    return Sweep.model_validate({"space": SPACE, "train": {"lr": 3e-3, "weight_decay": 0.05}, **changes})


def trials_of(n: int, value: Any, status: str = "finished") -> list[Trial]:
    rng = np.random.default_rng(3)
    made = []
    for index in range(n):
        config = {
            "lr": float(10 ** rng.uniform(-4, -1)),
            "weight_decay": float(rng.uniform(0, 0.1)),
            "optimizer": str(rng.choice(["adamw", "sgd"])),
        }
        config = {} if index == 0 else config
        made.append(
            Trial(f"{index:05d}", config, status, [{"accuracy": value(config), "nll": 1.0}])  # type: ignore[arg-type]
        )
    return made


@pytest.mark.parametrize(
    ("value", "first"),
    [
        (lambda config: 1 - 5 * abs(config.get("weight_decay", 0.05) - 0.03), "weight_decay"),
        (lambda config: 0.9 if config.get("optimizer") == "sgd" else 0.5, "optimizer"),
        (lambda config: -config.get("lr", 3e-3), "lr"),
    ],
)
def test_what_alone_decides_comes_first_and_explains_most(value: Any, first: str) -> None:
    table = importance(sweep_of(), trials_of(40, value)).to_pydict()
    assert table["setting"][0] == first
    assert table["importance"][0] > 0.8
    assert max(table["importance"][1:]) < 0.1
    # The defaults lie within the space, so they count; `adamw` is the default optimizer.
    assert table["trials"] == [40] * 3


def test_the_same_seed_gives_the_same() -> None:
    trials = trials_of(12, lambda config: config.get("lr", 0.0) + config.get("weight_decay", 0.0))
    assert importance(sweep_of(), trials).equals(importance(sweep_of(), trials))


def test_only_finished_trials_count() -> None:
    def value(config: dict[str, Any]) -> float:
        return 0.9 if config.get("optimizer") == "sgd" else 0.5

    good = trials_of(10, value)
    odd = [*trials_of(9, lambda _: 7.0, "stopped"), *trials_of(9, lambda _: math.nan)]
    assert importance(sweep_of(), [*good, *odd]).equals(importance(sweep_of(), good))


def test_a_conditional_setting_is_judged_among_the_trials_that_have_it() -> None:
    space = {
        "optimizer": {"choice": ["adamw", "sgd"]},
        "lr": {"uniform": [0.01, 1.0], "when": {"optimizer": "sgd"}},
    }
    rng = np.random.default_rng(0)
    trials = []
    for index in range(30):
        config: dict[str, Any] = {"optimizer": "sgd" if index % 2 else "adamw"}
        if index % 2:
            config["lr"] = float(rng.uniform(0.01, 1))
        curve = [{"accuracy": config.get("lr", 0.5), "nll": 1.0}]
        trials.append(Trial(f"{index:05d}", config, "finished", curve))
    found = importance(sweep_of(space=space), trials).to_pydict()
    rows = dict(zip(found["setting"], zip(found["importance"], found["trials"], strict=True), strict=True))
    assert rows["lr"][0] > 0.9
    assert rows["lr"][1] == 15
    # Of the settings that all trials have it is the only one.
    assert rows["optimizer"] == (pytest.approx(1), 30)


@pytest.mark.parametrize(
    ("sweep", "trials", "note"),
    [
        (sweep_of(space={}), trials_of(9, len), "no space"),
        (sweep_of(), trials_of(1, len), f"1 trials finished; it takes {LEAST}"),
        (sweep_of(), trials_of(9, lambda _: 0.5), "all 9 finished trials have the same accuracy"),
        (
            sweep_of(space={"optimizer": {"choice": ["sgd"]}}),
            [Trial(str(i), {"optimizer": "sgd"}, "finished", [{"accuracy": i / 9}]) for i in range(9)],
            "the same settings",
        ),
    ],
)
def test_where_nothing_can_be_said_a_note_says_so(sweep: Sweep, trials: list[Trial], note: str) -> None:
    table = importance(sweep, trials)
    assert table.num_rows == 0
    assert note in table.schema.metadata[b"note"].decode()


def test_defaults_are_completed_where_their_conditions_hold() -> None:
    space = {**SPACE, "epochs": {"int": [1, 9], "when": {"optimizer": "sgd"}}}
    sweep = sweep_of(space=space)
    assert complete(sweep, {}) == {"lr": 3e-3, "weight_decay": 0.05, "optimizer": "adamw"}
    full = complete(sweep, {"optimizer": "sgd", "epochs": 4, "lr": 1.0, "weight_decay": 0.0})
    assert full["epochs"] == 4
