"""Paper 67 at quick scale, and the search that it uses."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome, long_text_hack
from ray_app.papers._staged import StagedSearch

pytestmark = pytest.mark.timeout(600)  # the fixture reproduces all papers; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["long_text_hack"]}


@pytest.mark.slow
def test_every_claim_has_its_outcome(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in long_text_hack.PAPER.claims]


@pytest.mark.slow
@pytest.mark.parametrize("claim", ["half_is_enough", "staged_costs_a_sum", "staged_finds_the_best"])
def test_holds(outcomes: dict[str, Outcome], claim: str) -> None:
    assert outcomes[claim].held, outcomes[claim]


@pytest.mark.slow
@pytest.mark.parametrize("claim", ["gain_at_16", "gain_at_32"])
def test_gains(outcomes: dict[str, Outcome], claim: str) -> None:
    # How much depends on the versions of the packages whose documentation is read.
    baseline = outcomes[claim].baseline
    assert baseline is not None
    assert outcomes[claim].value > baseline + 0.005


def test_no_recipe_for_a_cluster() -> None:
    with pytest.raises(SpecError, match="use quick or reference"):
        long_text_hack.reproduce("full")


STAGES = [{"a": [0, 1, 2]}, {"b": [5, 6], "c": ["x", "y"]}]


def score(setting: Mapping[str, Any]) -> float:
    return -abs(setting["a"] - 1) + (setting["b"] == 6) + 0.5 * (setting["c"] == "y")


def test_one_factor_after_the_other_each_with_the_best_of_those_before() -> None:
    asked: list[Mapping[str, Any]] = []

    def evaluate(setting: Mapping[str, Any]) -> float:
        asked.append(dict(setting))
        return score(setting)

    search = StagedSearch(STAGES)
    assert search.run(evaluate) == ({"a": 1, "b": 6, "c": "y"}, 1.5)
    assert asked == [
        {"a": 0, "b": 5, "c": "x"},
        {"a": 1, "b": 5, "c": "x"},
        {"a": 2, "b": 5, "c": "x"},
        {"a": 1, "b": 6, "c": "x"},
        {"a": 1, "b": 6, "c": "y"},
    ]


def test_a_search_that_was_stopped_goes_on() -> None:
    first = StagedSearch(STAGES)
    left = 3

    def until_stopped(setting: Mapping[str, Any]) -> float:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return score(setting)

    with pytest.raises(KeyboardInterrupt):
        first.run(until_stopped)
    asked: list[Mapping[str, Any]] = []
    second = StagedSearch(STAGES, done=first.done)
    assert second.run(lambda setting: asked.append(setting) or score(setting)) == (  # type: ignore[func-returns-value]
        {"a": 1, "b": 6, "c": "y"},
        1.5,
    )
    assert len(asked) == 2
