"""Paper 66 at quick scale."""

from collections.abc import Mapping, Sequence

import pytest
import torch

from ray_app.errors import SpecError
from ray_app.papers import Outcome
from ray_app.papers._mlp import Mlp
from ray_app.papers.gradient_noise import PAPER, reproduce

pytestmark = pytest.mark.timeout(600)  # the fixture trains networks; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["gradient_noise"]}


@pytest.mark.slow
def test_every_claim_is_tested_and_holds(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in PAPER.claims]
    assert [name for name, outcome in outcomes.items() if not outcome.held] == []


def test_starts_are_what_they_are_called() -> None:
    def weights(init: str) -> torch.Tensor:
        net = Mlp(widths=[200, 200], inputs=64, num_classes=10, init=init)
        assert not net.hidden[1].bias.any()
        return net.hidden[1].weight.detach()

    assert not weights("zero").any()
    assert abs(weights("simple").std().item() - 0.1) < 0.002
    assert abs(weights("he").std().item() - 0.1) < 0.002  # sqrt(2 / 200)


def test_there_is_no_cluster_recipe() -> None:
    with pytest.raises(SpecError, match="no recipe for scale full; use quick or reference"):
        reproduce("full")
