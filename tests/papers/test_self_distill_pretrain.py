"""Paper 8 at quick scale."""

from collections.abc import Mapping, Sequence

import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome
from ray_app.papers.self_distill_pretrain import PAPER, reproduce

pytestmark = pytest.mark.timeout(600)  # the fixture trains networks; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["self_distill_pretrain"]}


@pytest.mark.slow
def test_every_claim_is_tested(outcomes: dict[str, Outcome]) -> None:
    # None of them is asserted: at this scale a teacher makes hardly any difference.
    assert list(outcomes) == [claim.name for claim in PAPER.claims]


@pytest.mark.slow
def test_what_the_claims_rest_on(outcomes: dict[str, Outcome]) -> None:
    details = outcomes["nearer_in_weights"].details
    # Further pre-training moved the network, and it tells masked patches better than the start does.
    assert details["further: weights moved"] > 1
    assert details["start: weights moved"] == 0
    assert details["further: masked error"] < details["start: masked error"]
    assert details["student: masked error"] < details["start: masked error"]


def test_there_is_no_cluster_recipe() -> None:
    with pytest.raises(SpecError, match="no recipe for scale full; use quick or reference"):
        reproduce("full")
