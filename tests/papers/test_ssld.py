"""Paper 10 at quick scale."""

from collections.abc import Mapping, Sequence

import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome
from ray_app.papers.ssld import PAPER, reproduce

pytestmark = pytest.mark.timeout(600)  # the fixture trains networks; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["ssld"]}


@pytest.mark.slow
def test_every_claim_is_tested(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in PAPER.claims]


@pytest.mark.slow
def test_what_the_claims_rest_on(outcomes: dict[str, Outcome]) -> None:
    details = outcomes["distilled_over_supervised"].details
    # The teacher has something to teach, and every student learned.
    assert details["teacher"] > details["labels"] + 0.03
    assert min(details.values()) > 0.5


def test_there_is_no_cluster_recipe() -> None:
    with pytest.raises(SpecError, match="no recipe for scale full; use quick or reference"):
        reproduce("full")
