"""Search spaces: what they may say, and that settings and draws are two ways to write the same."""

from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.spec.space import corners, decoded, distributions, encoded

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
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(sampler=sampler)
    drawn = study.ask(distributions(SPACE)).params
    config = decoded(SPACE, drawn)
    assert 1e-4 <= config["lr"] <= 1e-1
    assert 0 <= config["augment.noise"] <= 1
    assert config["epochs"] in (2, 3, 4, 5)
    assert config["schedule"] in SPACE["schedule"]["choice"]
    assert config["objective"] in SPACE["objective"]["choice"]
    assert encoded(SPACE, config) == drawn


def test_the_order_of_keys_in_a_file_says_nothing() -> None:
    backwards = dict(reversed(SPACE.items()))
    assert list(distributions(SPACE)) == list(distributions(backwards)) == sorted(SPACE)


def test_a_value_that_the_choices_lack_is_refused() -> None:
    with pytest.raises(ValueError, match="is not in list"):
        encoded(SPACE, {"schedule": "linear"})
