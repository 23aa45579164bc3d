"""What an abnormal input gets."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.bundle import CalibratedDetector, Component, Manifest, Threshold, now
from ray_app.errors import SpecError
from ray_app.serve.policy import decide, deciders, find
from ray_app.spec import Method
from ray_app.spec.serve import Policy

THRESHOLD = Threshold(value=0.5, tpr=0.9, rows=11, quantiles=np.linspace(0, 1, 11).tolist())
NAMES = ("a", "b", "c")


def manifest(uncalibrated: tuple[str, ...] = (), names: tuple[str, ...] = NAMES) -> Manifest:
    detectors = {
        name: CalibratedDetector(
            method=Method(name="energy"), file="f", threshold=None if name in uncalibrated else THRESHOLD
        )
        for name in names
    }
    member = Component(method=Method(name="timm"), file="f")
    return Manifest(
        name="b", created=now(), modality="image", labels=["x"], members={"m": member}, detectors=detectors
    )


@settings(derandomize=True, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=3), st.sampled_from(["any", "majority", "all"]))
def test_the_vote_is_counted(votes: list[bool], rule: Any) -> None:
    chosen = NAMES[: len(votes)]
    findings = {name: find(1.0 if vote else 0.0, THRESHOLD) for name, vote in zip(chosen, votes, strict=True)}
    expected = {"any": any(votes), "majority": 2 * sum(votes) > len(votes), "all": all(votes)}[rule]
    for action, done in (("flag", "flagged"), ("abstain", "abstained"), ("reject", "rejected")):
        decision = decide(findings, chosen, Policy(action=action, decide=rule))  # type: ignore[arg-type]
        assert decision.abnormal is expected
        assert decision.action == (done if expected else "answered")
        assert decision.has_answer is (not expected or action == "flag")
        assert (decision.reason is not None) is expected


def test_at_the_threshold_is_normal() -> None:
    assert find(0.5, THRESHOLD).abnormal is False
    assert find(float(np.nextafter(0.5, 1)), THRESHOLD).abnormal is True


@settings(derandomize=True, deadline=None)
@given(st.floats(-1, 2))
def test_the_percentile_is_the_share_below(score: float) -> None:
    percentile = find(score, THRESHOLD).percentile
    assert percentile == pytest.approx(100 * min(max(score, 0), 1))


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_abnormal(score: float) -> None:
    finding = find(score, THRESHOLD)
    assert (finding.score, finding.abnormal) == (None, True)
    decision = decide({"a": finding}, ("a",), Policy(action="abstain"))
    assert decision.action == "abstained"
    assert "a is not finite" in str(decision.reason)


@pytest.mark.parametrize(
    ("policy", "done"),
    [
        (Policy(action="flag"), "answered"),
        (Policy(action="abstain"), "abstained"),
        (Policy(action="reject"), "abstained"),
        (Policy(action="reject", without_detectors="answer"), "answered"),
        (Policy(action="flag", without_detectors="abstain"), "abstained"),
    ],
)
def test_without_scores_a_guarded_answer_is_held_back(policy: Policy, done: str) -> None:
    decision = decide({"a": find(None, THRESHOLD)}, ("a",), policy)
    assert decision.action == done
    assert decision.abnormal is None


def test_without_detectors_everything_is_answered() -> None:
    assert decide({}, (), Policy()).action == "answered"
    assert deciders(Policy(), manifest(names=())) == ()


def test_those_with_a_threshold_decide_unless_told() -> None:
    assert deciders(Policy(), manifest(uncalibrated=("b",))) == ("a", "c")
    assert deciders(Policy(detectors=["c"]), manifest()) == ("c",)


@pytest.mark.parametrize(
    ("policy", "made", "said"),
    [
        (Policy(detectors=["knn"]), manifest(), r"no detector 'knn' \(detectors: a, b, c\)"),
        (Policy(detectors=["a"]), manifest(uncalibrated=("a",)), "'a' has no threshold"),
        (Policy(action="reject"), manifest(names=()), "reject needs a detector with a threshold"),
    ],
)
def test_a_policy_that_cannot_hold_is_refused(policy: Policy, made: Manifest, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        deciders(policy, made)
