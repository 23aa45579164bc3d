"""HyperBand's schedule against the paper's table, and what cannot go in rounds."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.errors import SpecError
from ray_app.spec import parse
from ray_app.spec.rounds import brackets
from ray_app.spec.tune import Sweep

# Li et al. 2018, Table 1: R = 81, eta = 3; (n_i, r_i) of the brackets s = 4 to 0.
TABLE = [
    [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
    [(34, 3), (11, 9), (3, 27), (1, 81)],
    [(15, 9), (5, 27), (1, 81)],
    [(8, 27), (2, 81)],
    [(5, 81)],
]
PBT = {"scheduler": "pbt", "train": {"epochs": 4}, "space": {"lr": {"uniform": [0.001, 0.1]}}}


def sweep(**content) -> Sweep:
    if isinstance(content.get("scheduler"), str):
        content["scheduler"] = {"name": content["scheduler"]}
    return parse(content, Sweep, "sweep")


def test_the_brackets_are_those_of_the_papers_table() -> None:
    assert brackets(81, 3, 1) == TABLE
    assert sweep(scheduler="hyperband", train={"epochs": 81}).runs == 81 + 34 + 15 + 8 + 5
    assert sweep(scheduler="hyperband", train={"epochs": 81}, trials=7).runs == 7


def test_grace_leaves_out_what_stops_earlier() -> None:
    assert [bracket[0].epochs for bracket in brackets(81, 3, 9)] == [9, 27, 81]
    assert [bracket[0].epochs for bracket in brackets(81, 3, 10)] == [27, 81]
    assert brackets(5, 3, 9) == [[(1, 5)]]


@given(st.integers(1, 300), st.integers(2, 6), st.integers(1, 5))
@settings(derandomize=True, deadline=None)
def test_rungs_rise_to_the_whole_training_and_never_below_grace(
    epochs: int, reduction: int, grace: int
) -> None:
    made = brackets(epochs, reduction, grace)
    assert [len(bracket) for bracket in made] == list(range(len(made), 0, -1))
    for bracket in made:
        reached = [rung.epochs for rung in bracket]
        assert reached == sorted(set(reached))
        assert reached[-1] == epochs
        assert reached[0] >= min(grace, epochs)
        assert [rung.trials for rung in bracket] == sorted((r.trials for r in bracket), reverse=True)
        assert bracket[-1].trials >= 1
        # The formula in floats, where they are exact enough.
        s, most = len(bracket) - 1, len(made) - 1
        exact = (most + 1) * reduction**s / (s + 1)
        assert bracket[0].trials == math.ceil(round(exact, 9))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"scheduler": "hyperband", "space": {"epochs": {"int": [1, 4]}}},
            "space.epochs: hyperband's rungs are",
        ),
        ({"scheduler": "hyperband", "seeds": 2}, "seeds: hyperband compares trials one by one"),
        ({"scheduler": "hyperband", "train": {"patience": 2}}, "train.patience: ends trials one by one"),
        (
            {"scheduler": "hyperband", "search": "grid", "space": {"lr": {"grid": [0.1, 0.2]}}},
            "search: grid asks for all combinations to be treated alike",
        ),
        ({**PBT, "space": {}}, "scheduler: pbt moves the settings in the space; give `space`"),
        (
            {**PBT, "space": {"epochs": {"int": [1, 4]}}},
            "space.epochs: pbt changes settings .* end at set epochs",
        ),
        ({**PBT, "space": {"batch_size": {"choice": [8, 16]}}}, "space.batch_size: .* the number of steps"),
        ({**PBT, "space": {"accumulate": {"int": [1, 2]}}}, "space.accumulate: .* the number of steps"),
        (
            {**PBT, "space": {"optimizer": {"choice": ["sgd", "adamw"]}}},
            "space.optimizer: .* no use to another",
        ),
        (
            {**PBT, "train": {"optimizer": "sgd"}, "space": {"optimizer.momentum": {"uniform": [0.1, 0.9]}}},
            "space.optimizer.momentum: .*; take it out",
        ),
        ({**PBT, "space": {"adapter": {"choice": ["lora", "bitfit"]}}}, "space.adapter: .* other weights"),
        ({**PBT, "space": {"ema": {"uniform": [0.5, 0.9]}}}, "space.ema: .* the average is part"),
        ({**PBT, "space": {"seed": {"int": [0, 9]}}}, "space.seed: .* generators"),
        ({**PBT, "space": {"warmup": {"uniform": [0.1, 0.2]}}}, "space.warmup: .* has begun"),
        ({**PBT, "space": {"schedule": {"choice": ["cosine", "constant"]}}}, "space.schedule: .* has begun"),
        ({**PBT, "space": {"patience": {"int": [1, 2]}}}, "patience"),
        (
            {
                **PBT,
                "space": {
                    "augment.mixup": {"choice": [0.0, 0.2]},
                    "lr": {"uniform": [0.1, 0.2], "when": {"augment.mixup": 0.2}},
                },
            },
            "space.lr: .* a condition",
        ),
        (
            {**PBT, "space": {"objective": {"choice": ["cross_entropy", "early_learning"]}}},
            "space.objective: .* cannot change",
        ),
        ({**PBT, "space": {"layer_decay": {"uniform": [0.5, 0.9]}}}, "space.layer_decay: with 1"),
        ({**PBT, "search": "optuna"}, "search: optuna learns from trials that ended"),
        ({**PBT, "trials": 1}, "trials: 1 is no population"),
        ({**PBT, "budget": {"epochs": 10}}, "budget: a pbt population trains together to the end"),
        ({**PBT, "train": {"epochs": 4, "cycles": 2}}, "train.cycles: "),
        ({**PBT, "train": {"epochs": 1}}, r"interval: 1 must be less than train.epochs \(1\)"),
        ({**PBT, "scheduler": {"name": "pbt", "quantile": 0.6}}, "quantile"),
    ],
)
def test_what_cannot_go_in_rounds_is_refused_with_its_reason(content: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        sweep(**content)
    assert "\n" not in str(error.value)


def test_what_may_change_under_way_may_be_in_a_population() -> None:
    made = sweep(
        **{
            **PBT,
            "train": {"epochs": 4, "layer_decay": 0.8},
            "space": {
                "lr": {"loguniform": [0.001, 0.1]},
                "weight_decay": {"uniform": [0.0, 0.1]},
                "layer_decay": {"uniform": [0.5, 0.9]},
                "clip": {"choice": [0.5, 1.0]},
                "augment.noise": {"uniform": [0.0, 0.2]},
                "augment.randaugment": {"int": [0, 3]},
                "objective.label_smoothing": {"uniform": [0.0, 0.2]},
            },
        }
    )
    assert made.runs == 8
