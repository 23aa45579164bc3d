"""What an abnormal input gets, from its detectors' scores and the thresholds calibrated in the bundle."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ray_app.bundle import Manifest, Threshold
from ray_app.errors import SpecError
from ray_app.registry import nearest
from ray_app.spec.serve import Policy


@dataclass(frozen=True)
class Finding:
    """What one detector says of one input."""

    score: float | None
    """Higher is more abnormal; None: not available, or not a finite number."""
    threshold: float | None
    """Scores above it are abnormal; None: never calibrated."""
    percentile: float | None
    """Share of in-distribution scores below it, in percent."""
    abnormal: bool | None


@dataclass(frozen=True)
class Decision:
    """What the policy did with one input."""

    action: str
    """answered, flagged, abstained or rejected."""
    abnormal: bool | None
    """None: nothing could tell."""
    reason: str | None

    @property
    def has_answer(self) -> bool:
        """Whether the label is told."""
        return self.action in ("answered", "flagged")


def deciders(policy: Policy, manifest: Manifest) -> tuple[str, ...]:
    """Return the detectors that decide.

    Raises:
        SpecError: The policy names one that the bundle lacks or that has no threshold, or there is none.
    """
    calibrated = [name for name, part in manifest.detectors.items() if part.threshold is not None]
    for name in policy.detectors or ():
        if name not in manifest.detectors:
            known = list(manifest.detectors)
            raise SpecError(
                f"policy.detectors: the bundle has no detector {name!r}{nearest(name, known)} "
                f"(detectors: {', '.join(known) or 'none'})"
            )
        if name not in calibrated:
            raise SpecError(f"policy.detectors: {name!r} has no threshold in the bundle; leave it out")
    chosen = tuple(policy.detectors or calibrated)
    if policy.action != "flag" and not chosen:
        raise SpecError(
            f"policy.action: {policy.action} needs a detector with a threshold; the bundle has none"
        )
    return chosen


def find(score: float | None, threshold: Threshold | None) -> Finding:
    """Return what a score means. One that is no finite number is abnormal: nothing normal has it."""
    limit = None if threshold is None else threshold.value
    if score is None:
        return Finding(None, limit, None, None)
    if not math.isfinite(score):
        return Finding(None, limit, None, None if threshold is None else True)
    if threshold is None:
        return Finding(score, None, None, None)
    return Finding(score, limit, _percentile(score, threshold), score > threshold.value)


def decide(findings: Mapping[str, Finding], chosen: tuple[str, ...], policy: Policy) -> Decision:
    """Return what happens to an input.

    Args:
        findings: Detector → what it says.
        chosen: Which ones decide.
        policy: How.
    """
    if not chosen:
        return Decision("answered", None, None)
    said = {name: findings[name].abnormal for name in chosen}
    if any(abnormal is None for abnormal in said.values()):
        action = policy.without_detectors or ("answer" if policy.action == "flag" else "abstain")
        reason = "detectors are not available while members are missing"
        return Decision("answered" if action == "answer" else "abstained", None, reason)
    against = [name for name, abnormal in said.items() if abnormal]
    needed = {"any": 1, "majority": len(chosen) // 2 + 1, "all": len(chosen)}[policy.decide]
    if len(against) < needed:
        return Decision("answered", abnormal=False, reason=None)
    done = {"flag": "flagged", "abstain": "abstained", "reject": "rejected"}[policy.action]
    return Decision(done, abnormal=True, reason=_reason(against, findings))


def _reason(against: list[str], findings: Mapping[str, Finding]) -> str:
    told = [
        f"{name} {'is not finite' if findings[name].score is None else format(findings[name].score, '.4g')} "
        f"(threshold {findings[name].threshold:.4g})"
        for name in against
    ]
    return f"abnormal input: {', '.join(told)}"


def _percentile(score: float, threshold: Threshold) -> float:
    shares = np.linspace(0, 100, len(threshold.quantiles))
    return float(np.interp(score, threshold.quantiles, shares))
