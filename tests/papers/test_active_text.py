"""Paper 52 at quick scale."""

from collections.abc import Mapping, Sequence

import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome, active_text

pytestmark = pytest.mark.timeout(600)  # the fixture reproduces all papers; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["active_text"]}


@pytest.mark.slow
def test_every_claim_has_its_outcome(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in active_text.PAPER.claims]


@pytest.mark.slow
def test_every_strategy_works(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["every_strategy_works"].held


@pytest.mark.slow
def test_margins_gain(outcomes: dict[str, Outcome]) -> None:
    # How much depends on the versions of the packages whose documentation is read.
    margin = outcomes["margin_beats_random"]
    assert margin.baseline is not None
    assert margin.value > margin.baseline


@pytest.mark.slow
def test_diversity_does_no_harm(outcomes: dict[str, Outcome]) -> None:
    diverse = outcomes["coreset_beats_random"]
    assert diverse.baseline is not None
    assert diverse.value > diverse.baseline - 0.02


def test_every_strategy_is_named() -> None:
    from ray_app.registry import names

    asked = {f"selectors/{name}" for name in names("selectors") if name.startswith("query_")}
    assert asked == set(active_text.PAPER.methods) - {"diagnostics/learning_curve"}


def test_no_recipe_for_a_cluster() -> None:
    with pytest.raises(SpecError, match="use quick or reference"):
        active_text.reproduce("full")
