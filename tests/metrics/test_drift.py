"""Drift of scores, against scipy's two-sample test and a count by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from ray_app.metrics.drift import BINS, drift


def quantiles(scores: np.ndarray, points: int = 1001) -> np.ndarray:
    return np.quantile(scores, np.linspace(0, 1, points))


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.0), (0.0, 2.0), (3.0, 1.0)])
def test_ks_is_that_of_the_two_samples(shift: float, scale: float) -> None:
    rng = np.random.default_rng(0)
    then, now = rng.normal(size=2000), shift + scale * rng.normal(size=500)
    found, expected = drift(now, quantiles(then), len(then)), ks_2samp(now, then, method="asymp")
    assert found.ks == pytest.approx(expected.statistic, abs=2e-3)
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.35, abs=1e-12)


def test_psi_is_the_sum_over_deciles() -> None:
    then = np.linspace(0, 1, 1001)
    now = np.concatenate([np.full(50, 0.05), np.linspace(0.101, 0.999, 150)])
    edges = np.linspace(0, 1, BINS + 1)
    counts = np.histogram(now, edges)[0]
    observed, expected = (counts + 0.5) / 205, np.full(BINS, 20.5 / 205)
    by_hand = float(((observed - expected) * np.log(observed / expected)).sum())
    assert drift(now, then, 1001).psi == pytest.approx(by_hand, rel=1e-2)


def test_what_is_the_same_does_not_drift_and_what_is_not_does() -> None:
    rng = np.random.default_rng(1)
    then = rng.normal(size=1000)
    same = [drift(rng.normal(size=400), quantiles(then, 101), 1000) for _ in range(200)]
    assert np.mean([one.psi > 0.1 for one in same]) < 0.02
    # A p-value is what it says: one in twenty is below 0.05, here a little fewer, as quantiles are smooth.
    assert np.mean([one.p_value < 0.05 for one in same]) < 0.12
    other = drift(rng.normal(1.0, size=400), quantiles(then, 101), 1000)
    assert other.psi > 0.5
    assert other.p_value < 1e-12


def test_a_value_that_many_rows_had_is_no_drift() -> None:
    then = np.concatenate([np.zeros(700), np.linspace(0.1, 1, 300)])
    found = drift(then[::2], quantiles(then, 101), 1000)
    assert found.ks < 0.02
    # A hundred quantiles know shares to a hundredth.
    assert found.psi < 0.03
    assert drift(np.zeros(500), np.zeros(5), 100).ks == 0.0
    assert drift(np.ones(500), np.zeros(5), 100).ks == 1.0


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80),
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=80),
)
def test_it_lies_in_its_bounds_and_knows_no_units(now: list[float], then: list[float]) -> None:
    # On a grid, so that no two scores become one by rounding.
    here, known = np.round(now), np.sort(np.round(then))
    found = drift(here, known, len(then))
    assert found.psi >= 0
    assert 0 <= found.ks <= 1
    assert 0 <= found.p_value <= 1
    scaled = drift(here * 2.0, known * 2.0, len(then))
    assert (scaled.psi, scaled.ks) == (pytest.approx(found.psi), pytest.approx(found.ks))


@pytest.mark.parametrize(
    ("scores", "known", "rows", "said"),
    [
        ([], [0, 1], 1, "drift"),
        ([float("nan")], [0, 1], 1, "drift"),
        ([1.0], [0], 1, "quantiles must be two or more and rise"),
        ([1.0], [1, 0], 1, "quantiles must be two or more and rise"),
        ([1.0], [0, 1], 0, "rows must be at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    scores: list[float], known: list[float], rows: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        drift(scores, known, rows)
