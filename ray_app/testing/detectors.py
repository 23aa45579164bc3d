"""The contract of detectors."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ray_app.errors import NotFittedError
from ray_app.methods.detectors import Combinable, Detector
from ray_app.testing._expect import (
    expect,
    expect_close,
    expect_raises,
    permuted,
    through_safetensors,
    untouched,
)
from ray_app.testing._rows import Rows, abnormal, hard, rows


def check_detector(make: Callable[[], Detector], draw: Rows = rows) -> None:
    """Check everything that detectors promise.

    A detector without buffers has nothing to learn, and may score without fit.

    Args:
        make: Returns a fresh detector.
        draw: Returns features that it can read, with their labels.

    Raises:
        AssertionError: With a sentence about what does not hold.
    """
    check_refusals(make, draw)
    check_answers(make, draw)
    check_state(make, draw)
    check_hard_numbers(make, draw)


def check_refusals(make: Callable[[], Detector], draw: Rows = rows) -> None:
    """Check what a detector must not accept."""
    features, labels = draw(30, 0)
    expect_raises(
        ValueError, lambda: make().fit(features[:0], labels[:0]), "fit on no rows must raise ValueError"
    )
    if not list(make().buffers()):
        return
    expect_raises(
        NotFittedError, lambda: make().score(features), "an unfitted detector must raise NotFittedError"
    )
    spoiled = features.map(lambda x: x.clone().index_fill_(0, torch.tensor([2]), torch.nan))
    expect_raises(
        ValueError, lambda: make().fit(spoiled, labels), "rows that are not finite must raise ValueError"
    )
    wider = features.map(lambda x: torch.cat([x, x[:, :1]], 1))
    fitted = fit(make(), draw, 30)
    expect_raises(ValueError, lambda: fitted.score(wider), "another width must raise ValueError")


def check_answers(make: Callable[[], Detector], draw: Rows = rows) -> None:
    """Check the shape, type and orientation of scores, and that rows do not see one another."""
    features, labels = draw(60, 0)
    test, _ = draw(33, 1)
    with untouched(features, labels, test):
        detector = make()
        expect(detector.fit(features, labels) is detector, "fit must return the detector")
        detector = fit(detector, draw, 60)
        score = detector.score(test)
    _check_score(score, len(test))
    odd = detector.score(abnormal(test))
    share = float((odd[:, None] > score[None]).float().mean())
    expect(share > 0.9, f"far-off rows must score higher than normal ones; {share:.0%} of pairs do")
    expect(detector.score(test[:0]).shape == (0,), "no rows must give [0]")
    order = permuted(len(test))
    expect_close(detector.score(test[order]), score[order], "the order of rows must not matter", rtol=1e-4)
    parts = torch.cat([detector.score(test[i : i + 7]) for i in range(0, len(test), 7)])
    expect_close(parts, score, "the split into batches must not matter", rtol=1e-4)
    with torch.inference_mode():
        expect_close(detector.score(test), score, "inference mode must not matter", rtol=1e-4)


def check_state(make: Callable[[], Detector], draw: Rows = rows) -> None:
    """Check that what was learned is in the state, all of it, and that fit starts anew."""
    other, other_labels = draw(45, 5)
    detector = fit(make(), draw, 60)
    score = detector.score(other)
    loaded = through_safetensors(detector, make())
    expect(torch.equal(loaded.score(other), score), "a state through safetensors must give equal bits")
    expect(torch.equal(copy.deepcopy(detector).score(other), score), "a copy must give equal bits")
    refitted = through_safetensors(detector, make().fit(other, other_labels))
    expect(torch.equal(refitted.score(other), score), "a state must replace what was learned before")
    again = fit(detector, draw, 45, seed=5).score(other)
    fresh = fit(make(), draw, 45, seed=5).score(other)
    expect(torch.equal(again, fresh), "fit must forget; the same rows must give the same bits")


def check_hard_numbers(make: Callable[[], Detector], draw: Rows = rows) -> None:
    """Check that scores are numbers whatever the rows."""
    for what, (features, labels) in hard(draw).items():
        try:
            detector = make().fit(features, labels)
            if isinstance(detector, Combinable) and detector.learns_combination:
                detector.fit_combiner(features, abnormal(features))
            _check_score(detector.score(features), len(features))
        except Exception as error:
            raise AssertionError(f"{what}: {error}") from error


def fit(detector: Detector, draw: Rows, n: int, seed: int = 0) -> Detector:
    """Return it fitted on drawn rows, its combination learned too where it has one."""
    features, labels = draw(n, seed)
    detector.fit(features, labels)
    if isinstance(detector, Combinable) and detector.learns_combination:
        held_out, _ = draw(n, seed + 1000)
        detector.fit_combiner(held_out, abnormal(held_out))
    return detector


def _check_score(score: Tensor, n: int) -> None:
    expect(score.shape == (n,), f"score must return [{n}], got {list(score.shape)}")
    expect(score.dtype == torch.float32, f"score must return float32, got {score.dtype}")
    expect(torch.isfinite(score).all(), "scores must be finite")
