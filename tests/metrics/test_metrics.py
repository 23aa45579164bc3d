"""Metrics against slow loops and scikit-learn, and what the maths promises."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import norm
from sklearn.metrics import log_loss

from ray_app.metrics import calibration, classification, detection, interval

RNG = np.random.default_rng(0)
PROBA = softmax(RNG.normal(scale=2, size=(200, 4)), axis=1)
LABELS = RNG.integers(4, size=200)
scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


def test_classification_against_scikit_learn() -> None:
    assert classification.accuracy(PROBA, LABELS) == (PROBA.argmax(1) == LABELS).mean()
    assert classification.nll(PROBA, LABELS) == pytest.approx(log_loss(LABELS, PROBA))
    counts = classification.confusion(PROBA, LABELS)
    slow = np.zeros((4, 4), dtype=int)
    for truth, guess in zip(LABELS, PROBA.argmax(1), strict=True):
        slow[truth, guess] += 1
    np.testing.assert_array_equal(counts, slow)
    by_class = classification.per_class_accuracy(PROBA, np.minimum(LABELS, 2))
    assert np.isnan(by_class[3])
    assert by_class[0] == pytest.approx((PROBA[LABELS == 0].argmax(1) == 0).mean())


def test_impossible_truth_has_finite_nll() -> None:
    assert classification.nll([[1.0, 0.0]], [1]) == pytest.approx(-math.log(np.finfo(np.float32).tiny))


def test_ece_against_a_slow_loop() -> None:
    confidence, correct = PROBA.max(1), PROBA.argmax(1) == LABELS
    expected = 0.0
    for b in range(15):
        rows = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if rows.any():
            expected += rows.mean() * abs(correct[rows].mean() - confidence[rows].mean())
    assert calibration.ece(PROBA, LABELS) == pytest.approx(expected)
    assert calibration.ece([[1.0, 0.0]] * 4, [0] * 4) == 0


def test_temperature_is_found() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=2, size=(20_000, 5))
    labels = (softmax(logits, axis=1).cumsum(1) > rng.random((20_000, 1))).argmax(1)
    assert calibration.fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)


@settings(derandomize=True, deadline=None)
@given(scores, scores)
def test_auroc_is_a_probability_of_order(ind: list[float], ood: list[float]) -> None:
    wins = np.mean([(o > i) + 0.5 * (o == i) for o in ood for i in ind])
    assert detection.auroc(ind, ood) == pytest.approx(wins)
    monotone = detection.auroc(np.exp(ind), np.exp(ood))
    assert monotone == pytest.approx(wins)
    # Turning the scores round exchanges the roles.
    assert detection.auroc(-np.array(ood), -np.array(ind)) == pytest.approx(wins)
    assert detection.aupr_in(ind, ood) == pytest.approx(detection.aupr_out(-np.array(ood), -np.array(ind)))


@settings(derandomize=True, deadline=None)
@given(scores, st.floats(0.01, 0.99))
def test_threshold_is_the_least_that_lets_enough_through(ind: list[float], tpr: float) -> None:
    threshold = detection.threshold_at_tpr(ind, tpr)
    assert detection.let_through(ind, threshold) >= tpr - 1e-12
    below = [value for value in ind if value < threshold]
    assert len(below) / len(ind) < tpr


def test_fpr95_is_the_convention_that_lets_95_percent_of_ind_through() -> None:
    rng = np.random.default_rng(0)
    ind, ood = rng.normal(size=100_000), rng.normal(2, 2, size=100_000)
    exact = norm.cdf((norm.ppf(0.95) - 2) / 2)
    assert detection.fpr95(ind, ood) == pytest.approx(exact, abs=0.01)
    assert detection.fpr95(ind, ind + 100) == 0


def test_calibration_holds_what_a_bundle_needs() -> None:
    ind = np.arange(1, 101, dtype=float)
    found = detection.calibrate(ind, tpr=0.95, points=5)
    assert found["value"] == 95
    assert found["rows"] == 100
    assert found["quantiles"] == pytest.approx([1, 25.75, 50.5, 75.25, 100])


def test_report_has_all() -> None:
    assert set(detection.detection_report([0.0, 1.0], [2.0])) == {"auroc", "aupr_in", "aupr_out", "fpr95"}


def test_intervals_cover() -> None:
    rng = np.random.default_rng(0)
    hits = [interval.mean_interval(rng.normal(size=5), 0.9) for _ in range(1000)]
    assert np.mean([low < 0 < high for _, low, high in hits]) == pytest.approx(0.9, abs=0.03)
    rows = rng.random(400) < 0.3
    mean, low, high = interval.bootstrap_interval(rows, np.random.default_rng(1))
    half = 1.96 * interval.standard_error(rows)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.006)
    assert interval.mean_interval([0.5]) == (0.5, -math.inf, math.inf)
    assert math.isnan(interval.standard_error([0.5]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detection.auroc([], [1.0]), "at least one row"),
        (lambda: detection.auroc([math.nan], [1.0]), "1 of 1 scores are not finite"),
        (lambda: detection.threshold_at_tpr([1.0], 1), "try 0.95"),
        (lambda: detection.calibrate([1.0], points=1), "try 101"),
        (lambda: classification.accuracy([[0.5, 0.5]], [2]), "integers in 0..1"),
        (lambda: classification.accuracy([0.5], [0]), r"\[n, c\]"),
        (lambda: calibration.ece([[0.5, 0.5]], [0], bins=0), "bins"),
        (lambda: interval.mean_interval([1.0, 2.0], level=95), "0.95"),
        (lambda: interval.bootstrap_interval([1.0], np.random.default_rng(0), draws=0), "2000"),
    ],
)
def test_bad_arguments(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
