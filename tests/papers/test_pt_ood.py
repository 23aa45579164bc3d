"""Paper 51 at quick scale: the claims that hold, and that the comparison is a fair one."""

from collections.abc import Mapping, Sequence

import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome
from ray_app.papers.pt_ood import PAPER, reproduce

pytestmark = pytest.mark.timeout(600)  # the fixture trains networks; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["pt_ood"]}


@pytest.mark.slow
def test_every_claim_is_tested_and_holds(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in PAPER.claims]
    assert [name for name, outcome in outcomes.items() if not outcome.held] == []


@pytest.mark.slow
def test_both_backbones_serve_the_probe_equally_well(outcomes: dict[str, Outcome]) -> None:
    details = outcomes["neighbours_over_boundaries"].details
    gap = details["with labels: probe accuracy"] - details["without labels: probe accuracy"]
    assert details["without labels: probe accuracy"] > 0.95
    assert abs(gap) < 0.02


@pytest.mark.slow
def test_figures_make_sense(outcomes: dict[str, Outcome]) -> None:
    for outcome in outcomes.values():
        assert len(outcome.seeds) >= 3
        assert outcome.baseline is not None
        assert sum(outcome.interval) / 2 == pytest.approx(outcome.value - outcome.baseline)
    # What both of the first and the last claim rest on is one figure.
    first, last = outcomes["neighbours_over_boundaries"], outcomes["boundaries_are_vulnerable"]
    assert first.baseline is not None
    assert last.value == pytest.approx(first.value - first.baseline)


def test_there_is_no_cluster_recipe() -> None:
    with pytest.raises(SpecError, match="no recipe for scale full; use quick or reference"):
        reproduce("full")
