"""Paper 14 at quick scale."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from ray_app.errors import SpecError
from ray_app.papers import Outcome
from ray_app.papers._bag import Bag
from ray_app.papers.pseudo_label_pretraining import PAPER, reproduce

pytestmark = pytest.mark.timeout(600)  # the fixture trains networks; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["pseudo_label_pretraining"]}


@pytest.mark.slow
def test_every_claim_is_tested_and_what_is_clear_holds(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in PAPER.claims]
    # The others' margins are of the size of what splits differ by.
    for name in ("gain_with_few_labels", "over_longer_training"):
        assert outcomes[name].held, name


@pytest.mark.slow
def test_what_the_claims_rest_on(outcomes: dict[str, Outcome]) -> None:
    details = outcomes["gain_with_few_labels"].details
    # There is something to learn from pseudo labels, and more from many labels.
    assert details["few: pseudo labels that are right"] > 0.5
    assert details["many: labels alone"] > details["few: labels alone"] + 0.1


def test_a_bag_does_not_mind_the_order_of_words() -> None:
    net = Bag(num_classes=3).eval()
    batch = {"text": np.array(["The cat sat", "sat the CAT", "", "a dog"], dtype=object)}
    with torch.no_grad():
        logits = net(net.preprocess(batch), {"logits"}).logits
    torch.testing.assert_close(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[3])
    assert torch.isfinite(logits).all()


def test_there_is_no_cluster_recipe() -> None:
    with pytest.raises(SpecError, match="no recipe for scale full; use quick or reference"):
        reproduce("full")
