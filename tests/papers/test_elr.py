"""Paper 63 at quick scale."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome
from ray_app.papers.elr import PAPER, _noisy, reproduce

pytestmark = pytest.mark.timeout(600)  # the fixture trains networks; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["elr"]}


@pytest.mark.slow
def test_every_claim_is_tested_and_holds(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in PAPER.claims]
    assert [name for name, outcome in outcomes.items() if not outcome.held] == []


@pytest.mark.slow
def test_what_the_claims_rest_on(outcomes: dict[str, Outcome]) -> None:
    details = outcomes["accurate_at_the_end"].details
    # Most labels are wrong, and the memory knows the truth far better than they do.
    assert 0.4 < details["early learning: given"] < 0.52
    assert details["early learning: relabelled"] > details["early learning: given"] + 0.3


def test_labels_are_drawn_anew_from_all_classes() -> None:
    labels = np.arange(10).repeat(2000)
    noisy = _noisy(labels, 0.6, 0)
    # A tenth of what is drawn anew is right by chance.
    assert abs((noisy != labels).mean() - 0.6 * 0.9) < 0.01
    wrong = noisy[noisy != labels]
    assert np.abs(np.bincount(wrong, minlength=10) / len(wrong) - 0.1).max() < 0.01
    assert np.array_equal(noisy, _noisy(labels, 0.6, 0))


def test_there_is_no_cluster_recipe() -> None:
    with pytest.raises(SpecError, match="no recipe for scale full; use quick or reference"):
        reproduce("full")
