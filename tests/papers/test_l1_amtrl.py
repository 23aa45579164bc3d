"""Paper 25 at quick scale."""

from collections.abc import Mapping, Sequence

import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome, l1_amtrl

pytestmark = pytest.mark.timeout(600)  # the fixture reproduces all papers; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["l1_amtrl"]}


@pytest.mark.slow
def test_every_claim_has_its_outcome(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in l1_amtrl.PAPER.claims]


@pytest.mark.slow
@pytest.mark.parametrize(
    "claim",
    [
        "known_beats_uniform",
        "known_beats_l2",
        "estimated_beats_uniform",
        "estimated_beats_l2",
        "sparse",
        "l2_is_dense",
    ],
)
def test_holds(outcomes: dict[str, Outcome], claim: str) -> None:
    assert outcomes[claim].held, outcomes[claim]


@pytest.mark.slow
def test_the_l1_rule_is_no_better_than_the_l2_rule_in_its_median(outcomes: dict[str, Outcome]) -> None:
    # Both are so near to one another here that single seeds decide the order of the medians.
    low, high = outcomes["known_median"].interval
    assert low < 1 < high


def test_no_recipe_for_a_cluster() -> None:
    with pytest.raises(SpecError, match="use quick or reference"):
        l1_amtrl.reproduce("full")
