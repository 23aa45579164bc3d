"""Search spaces: what they may say, and that settings and draws are two ways to write the same."""

from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.spec.space import check, combinations, corners, draw, encoded, order

SPACE: dict[str, dict[str, Any]] = {
    "lr": {"loguniform": [1e-4, 1e-1]},
    "augment.noise": {"uniform": [0, 1]},
    "epochs": {"int": [2, 5]},
    "schedule": {"choice": ["cosine", "constant"]},
    "objective": {"choice": [{"name": "cross_entropy"}, {"name": "cross_entropy", "label_smoothing": 0.1}]},
}


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        ({"uniform": [0, 1], "int": [0, 1]}, r"expected one of uniform, .*, got keys \['uniform', 'int'\]"),
        ({}, "got keys"),
        ({"unifrom": [0, 1]}, "unknown kind 'unifrom'; did you mean 'uniform'"),
        ({"uniform": 3}, "expected a list, got 3"),
        ({"choice": []}, r"expected a list, got \[\]"),
        ({"uniform": [1, 0]}, r"expected \[low, high\] with low < high, got \[1, 0\]"),
        ({"uniform": [0, 1, 2]}, "with low < high"),
        ({"uniform": ["a", "b"]}, "with low < high"),
        ({"int": [0.5, 2]}, "with low < high"),
        ({"loguniform": [0, 1]}, "low must be > 0, got 0; or use uniform"),
    ],
)
def test_what_is_no_distribution_is_refused(distribution: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        corners("lr", distribution)
    assert str(caught.value).startswith("space.lr")


def test_corners_are_the_ends_or_all_choices() -> None:
    assert corners("lr", {"loguniform": [1e-4, 1]}) == [1e-4, 1]
    assert corners("s", {"choice": ["a", None, 3]}) == ["a", None, 3]


@given(st.integers(0, 2**32 - 1))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_draws_lie_within_and_are_inverted(seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    config = draw(SPACE, trial)
    assert 1e-4 <= config["lr"] <= 1e-1
    assert 0 <= config["augment.noise"] <= 1
    assert config["epochs"] in (2, 3, 4, 5)
    assert config["schedule"] in SPACE["schedule"]["choice"]
    assert config["objective"] in SPACE["objective"]["choice"]
    params, made = encoded(SPACE, config)
    assert params == trial.params
    assert made == trial.distributions


def test_the_order_of_keys_in_a_file_says_nothing() -> None:
    assert order(SPACE) == order(dict(reversed(SPACE.items()))) == sorted(SPACE)


def test_a_value_that_the_choices_lack_is_refused() -> None:
    with pytest.raises(ValueError, match="is not in list"):
        encoded(SPACE, {"schedule": "linear"})


CONDITIONAL: dict[str, dict[str, Any]] = {
    "a.rank": {"int": [2, 8], "when": {"adapter": "lora"}},
    "adapter": {"choice": ["lora", "bitfit", "svfit"]},
    "a.rank.scale": {"uniform": [0, 1], "when": {"adapter": ["lora", "svfit"]}},
    "lr": {"loguniform": [1e-4, 1e-1]},
}


@given(st.integers(0, 2**32 - 1))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_a_key_is_there_exactly_when_its_condition_holds(seed: int) -> None:
    check(CONDITIONAL)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    config = draw(CONDITIONAL, trial)
    assert ("a.rank" in config) == (config["adapter"] == "lora")
    assert ("a.rank.scale" in config) == (config["adapter"] in ("lora", "svfit"))
    assert encoded(CONDITIONAL, config)[0] == trial.params


def test_what_waits_for_a_key_that_is_left_out_is_left_out() -> None:
    chain: dict[str, dict[str, Any]] = {
        "a": {"grid": [1, 2]},
        "b": {"grid": [3, 4], "when": {"a": 1}},
        "c": {"grid": [5, 6], "when": {"b": 3}},
    }
    check(chain)
    assert list(combinations(chain)) == [
        {"a": 1, "b": 3, "c": 5},
        {"a": 1, "b": 3, "c": 6},
        {"a": 1, "b": 4},
        {"a": 2},
    ]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"a": {"choice": [1]}, "b": {"choice": [1], "when": {"aa": 1}}},
            "space.b.when: 'aa' is not in the space; did you mean 'a'",
        ),
        (
            {"a": {"uniform": [0, 1]}, "b": {"choice": [1], "when": {"a": 1}}},
            "space.b.when: a is a range; a condition is on a choice",
        ),
        (
            {"a": {"choice": [1, 2]}, "b": {"choice": [1], "when": {"a": 3}}},
            r"space.b.when: a is never 3 \(it is one of \[1, 2\]\)",
        ),
        (
            {"a": {"choice": [1], "when": {"b": 1}}, "b": {"choice": [1], "when": {"a": 1}}},
            "a and b wait for one another",
        ),
        ({"a": {"choice": [1], "when": 3}}, "space.a.when: expected another key and its value, got 3"),
        (
            {
                "a": {"choice": [1, 2]},
                "b": {"choice": [1], "when": {"a": 1}},
                "c": {"choice": [1], "when": {"a": 2, "b": 1}},
            },
            "space.c.when: a would have to be 2, but b is there only when it is 1; no trial has both",
        ),
    ],
)
def test_conditions_that_can_never_hold_are_refused(space: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(space)


def test_a_grid_is_every_combination_once_and_has_no_ranges() -> None:
    space = {"x": {"grid": [1, 2]}, "y": {"choice": ["a", "b", "c"]}}
    found = list(combinations(space))
    assert len(found) == 6
    assert found[0] == {"x": 1, "y": "a"}
    assert found[1] == {"x": 1, "y": "b"}
    with pytest.raises(ValueError, match=r"space.z: a grid needs values: \{grid: \[...\]\}; or use search"):
        list(combinations({**space, "z": {"uniform": [0, 1]}}))
