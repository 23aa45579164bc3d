"""Paper 61 at quick scale."""

from collections.abc import Mapping, Sequence

import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome, feature_density

pytestmark = pytest.mark.timeout(600)  # the fixture reproduces all papers; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["feature_density"]}


@pytest.mark.slow
def test_every_claim_is_tested_and_holds(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in feature_density.PAPER.claims]
    assert [name for name, outcome in outcomes.items() if not outcome.held] == []


@pytest.mark.slow
def test_densities_lie_on_both_sides_of_the_tokens(outcomes: dict[str, Outcome]) -> None:
    details = outcomes["distance_predicts_failure"].details
    base = details["docstrings: density of tokens"]
    assert details["docstrings: density of tags"] < 0.1 * base
    assert details["docstrings: density of pairs of words"] > 3 * base


def test_no_recipe_for_a_cluster() -> None:
    with pytest.raises(SpecError, match="use quick or reference"):
        feature_density.reproduce("full")
