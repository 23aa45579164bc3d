"""Paper 20 at quick scale: the claims that hold, and that the comparison is a fair one."""

from collections.abc import Mapping, Sequence

import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome
from ray_app.papers.points import PAPER, reproduce

pytestmark = pytest.mark.timeout(600)  # the fixture trains networks; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["points"]}


@pytest.mark.slow
def test_every_claim_is_tested_and_holds(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in PAPER.claims]
    assert [name for name, outcome in outcomes.items() if not outcome.held] == []


@pytest.mark.slow
def test_the_comparison_is_a_fair_one(outcomes: dict[str, Outcome]) -> None:
    details = outcomes["lowest_teaches_more"].details
    # What is kept is no boilerplate, and the pool was a mixture.
    assert details["lowest: repeated"] < 0.05
    assert details["pool: clean"] == pytest.approx(1 / 3)
    assert details["lowest: bits"] < details["random: bits"] < details["highest: bits"]
    # The candidates were worth something, and the soup is one of several of them.
    assert details["base only"] < details["mean single"] < details["best single"]
    assert details["ingredients of the greedy soup"] > 1


@pytest.mark.slow
def test_figures_make_sense(outcomes: dict[str, Outcome]) -> None:
    for outcome in outcomes.values():
        assert len(outcome.seeds) >= 3
        assert 0 <= outcome.value <= 10
        assert sum(outcome.interval) / 2 == pytest.approx(outcome.value - (outcome.baseline or 0))


def test_there_is_no_cluster_recipe() -> None:
    with pytest.raises(SpecError, match="no recipe for scale full; use quick or reference"):
        reproduce("full")
