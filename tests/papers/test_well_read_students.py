"""Paper 15 at quick scale."""

from collections.abc import Mapping, Sequence

import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome
from ray_app.papers.well_read_students import PAPER, reproduce

pytestmark = pytest.mark.timeout(600)  # the fixture trains networks; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["well_read_students"]}


@pytest.mark.slow
def test_every_claim_is_tested(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in PAPER.claims]
    # Seconds of reading teach a model nothing; what a teacher adds to few labels is there at any scale.
    assert outcomes["distilled_over_fine_tuned"].held


@pytest.mark.slow
def test_what_the_claims_rest_on(outcomes: dict[str, Outcome]) -> None:
    details = outcomes["distilled_over_fine_tuned"].details
    assert details["teacher"] > details["fine-tuned"] + 0.1
    assert min(details.values()) > 0.3  # four classes


def test_there_is_no_cluster_recipe() -> None:
    with pytest.raises(SpecError, match="no recipe for scale full; use quick or reference"):
        reproduce("full")
