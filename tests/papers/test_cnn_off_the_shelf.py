"""Paper 54 at quick scale."""

from collections.abc import Mapping, Sequence

import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome
from ray_app.papers.cnn_off_the_shelf import LAYERS, PAPER, reproduce

pytestmark = pytest.mark.timeout(600)  # the fixture trains networks; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["cnn_off_the_shelf"]}


@pytest.mark.slow
def test_every_claim_is_tested_and_holds(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in PAPER.claims]
    assert [name for name, outcome in outcomes.items() if not outcome.held] == []


@pytest.mark.slow
def test_the_baselines_are_better_than_chance(outcomes: dict[str, Outcome]) -> None:
    details = outcomes["over_pixels"].details
    assert details["accuracy: pixels"] > 0.2
    assert details["accuracy: random network"] > 0.12
    assert details["mAP: pixels"] > 0.12
    assert {f"accuracy: {layer}" for layer in LAYERS} <= details.keys()


def test_there_is_no_cluster_recipe() -> None:
    with pytest.raises(SpecError, match="no recipe for scale full; use quick or reference"):
        reproduce("full")
