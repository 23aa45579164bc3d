"""Paper 6 at quick scale: the claims that hold, and that the baselines were no straw men."""

from collections.abc import Mapping, Sequence

import pytest

from ray_app.errors import SpecError
from ray_app.papers import Outcome
from ray_app.papers.nmc import PAPER, reproduce

pytestmark = pytest.mark.timeout(600)  # the fixture trains networks; a busy machine is no failure


@pytest.fixture(scope="module")
def outcomes(reproduced: Mapping[str, Sequence[Outcome]]) -> dict[str, Outcome]:
    return {outcome.claim: outcome for outcome in reproduced["nmc"]}


@pytest.mark.slow
def test_every_claim_is_tested_and_holds(outcomes: dict[str, Outcome]) -> None:
    assert list(outcomes) == [claim.name for claim in PAPER.claims]
    assert [name for name, outcome in outcomes.items() if not outcome.held] == []


@pytest.mark.slow
def test_baselines_learned_each_task_and_then_forgot_it(outcomes: dict[str, Outcome]) -> None:
    details = outcomes["accurate"].details
    for name in ("fine-tuning", "linear probe"):
        assert details[f"{name}: accuracy when learned"] > 0.9
        assert details[f"{name}: forgetting"] > details["nearest mean: forgetting"] + 0.3


@pytest.mark.slow
def test_order_changes_nothing(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["order_free"].value == 1
    assert outcomes["same_means"].value == 1


@pytest.mark.slow
def test_figures_make_sense(outcomes: dict[str, Outcome]) -> None:
    for outcome in outcomes.values():
        assert len(outcome.seeds) >= 3
        assert 0.1 <= outcome.value <= 1
        assert sum(outcome.interval) / 2 == pytest.approx(outcome.value - (outcome.baseline or 0))


def test_there_is_no_cluster_recipe() -> None:
    with pytest.raises(SpecError, match="no recipe for scale full; use quick or reference"):
        reproduce("full")
