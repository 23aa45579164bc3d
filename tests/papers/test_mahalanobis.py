"""Paper 1 at quick scale: the claims that hold, and what they rest on."""

from collections.abc import Mapping, Sequence

import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome
from ray_app.papers.mahalanobis import PAPER, reproduce

pytestmark = pytest.mark.timeout(600)  # the fixture trains networks; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["mahalanobis"]}


@pytest.mark.slow
def test_every_claim_is_tested_and_holds(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in PAPER.claims]
    assert [name for name, outcome in outcomes.items() if not outcome.held] == []


@pytest.mark.slow
def test_the_last_layer_alone_is_the_weakest_against_attacks(outcomes: dict[str, Outcome]) -> None:
    details = outcomes["far_outliers"].details
    assert details["attacked: last layer"] < details["attacked: max softmax"]
    assert details["attacked: max softmax"] < details["attacked: all layers"]


@pytest.mark.slow
def test_figures_make_sense(outcomes: dict[str, Outcome]) -> None:
    for outcome in outcomes.values():
        assert len(outcome.seeds) >= 3
        assert 0.5 < outcome.value <= 1
        middle = outcome.value - (outcome.baseline or 0)
        assert sum(outcome.interval) / 2 == pytest.approx(middle)
    assert outcomes["far_outliers"].details["network: accuracy"] > 0.95


def test_there_is_no_cluster_recipe() -> None:
    with pytest.raises(SpecError, match="no recipe for scale full; use quick or reference"):
        reproduce("full")
