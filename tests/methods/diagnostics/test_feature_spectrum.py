"""The spectrum of features, against SciPy's entropy and matrices whose singular values are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from ray_app.methods.diagnostics.feature_spectrum import FeatureSpectrum
from ray_app.methods.encoders import Features


@settings(derandomize=True, deadline=None, max_examples=20)
@given(n=st.integers(1, 30), d=st.integers(1, 12), seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
def test_equals_the_entropy_of_numpys_values_in_any_unit(n: int, d: int, seed: int, scale: float) -> None:
    x = np.random.default_rng(seed).normal(3, 1, size=(n, d)).astype(np.float32)
    s = np.linalg.svd(x.astype(float), compute_uv=False)
    report = FeatureSpectrum().report(Features(torch.from_numpy(scale * x).float()))
    assert report["sve"] == pytest.approx(entropy(s), abs=1e-4)
    assert report["lsvr"] == pytest.approx(-math.log(s[0] / s.sum()), abs=1e-4)
    assert report["effective_rank"] == pytest.approx(math.exp(entropy(s)), rel=1e-4)


def test_extremes() -> None:
    even = FeatureSpectrum().report(Features(torch.eye(5)))
    assert even == pytest.approx({"sve": math.log(5), "lsvr": math.log(5), "effective_rank": 5.0})
    line = FeatureSpectrum().report(Features(torch.ones(7, 3)))
    assert line == pytest.approx({"sve": 0.0, "lsvr": 0.0, "effective_rank": 1.0}, abs=1e-6)


@pytest.mark.parametrize(
    ("pooled", "message"),
    [
        (torch.zeros(0, 3), "no rows"),
        (torch.zeros(4, 3), "all features are zero"),
        (torch.full((4, 3), torch.nan), "row 0 of the features is not finite"),
    ],
)
def test_what_has_no_spectrum_is_refused(pooled: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"feature_spectrum: .*{message}"):
        FeatureSpectrum().report(Features(pooled))
