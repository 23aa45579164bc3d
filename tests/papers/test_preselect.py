"""Paper 22 at quick scale: the claims that hold, and that the comparison is a fair one."""

from collections.abc import Mapping, Sequence

import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome
from ray_app.papers.preselect import PAPER, reproduce

pytestmark = pytest.mark.timeout(600)  # the fixture trains networks; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["preselect"]}


@pytest.mark.slow
def test_every_claim_is_tested_and_holds(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in PAPER.claims]
    assert [name for name, outcome in outcomes.items() if not outcome.held] == []


@pytest.mark.slow
def test_the_comparison_is_a_fair_one(outcomes: dict[str, Outcome]) -> None:
    details = outcomes["domain_is_predictive"].details
    # Models that do not differ would order nothing; what is neither is between both domains or below.
    assert details["abilities: spread"] > 0.5
    assert details["strength: other"] < details["strength: domain"]
    assert details["pool: domain"] < 0.25
    # Low perplexity finds the domain as well, only less surely: it is no straw man.
    assert details["pool: domain"] < details["lowest perplexity: domain"] < details["selected: domain"]


@pytest.mark.slow
def test_figures_make_sense(outcomes: dict[str, Outcome]) -> None:
    for outcome in outcomes.values():
        assert len(outcome.seeds) >= 3
        assert 0 <= outcome.value <= 10
        assert sum(outcome.interval) / 2 == pytest.approx(outcome.value - (outcome.baseline or 0))


def test_there_is_no_cluster_recipe() -> None:
    with pytest.raises(SpecError, match="no recipe for scale full; use quick or reference"):
        reproduce("full")
