"""Weights of partial scores: scikit-learn's where those are positive, never negative."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ray_app.methods.detectors._combination import combination


def parts(*shifts: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Positive partial scores of very unlike sizes, the abnormal ones shifted."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** np.arange(len(shifts))
    normal, abnormal = rng.normal(10, 1, (200, len(shifts))), rng.normal(10, 1, (150, len(shifts)))
    return torch.from_numpy(normal * scale), torch.from_numpy((abnormal + shifts) * scale)


def test_it_is_scikit_learns_regression_where_that_has_positive_weights() -> None:
    normal, abnormal = parts(1.0, 0.5, 2.0)
    found = combination(normal, abnormal).numpy()
    x = torch.cat([normal, abnormal]).numpy()
    truth = np.repeat([0, 1], [200, 150])
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8)).fit(x, truth)
    assert (model[-1].coef_ > 0).all()
    np.testing.assert_allclose(x @ found[:-1] + found[-1], model.decision_function(x), rtol=1e-3, atol=1e-3)


def test_a_part_that_is_lower_for_the_abnormal_rows_gets_no_weight() -> None:
    normal, abnormal = parts(2.0, -1.0)
    weights = combination(normal, abnormal)[:-1]
    assert weights[0] > 0
    assert weights[1] == 0


def test_a_row_that_is_farther_off_in_any_part_is_never_more_normal() -> None:
    # Correlated parts: free weights would be of opposite signs.
    rng = np.random.default_rng(0)
    common = rng.normal(0, 3, (400, 1))
    x = torch.from_numpy(common + rng.normal(0, 0.5, (400, 2)) + np.repeat([[0, 0], [0, 1]], 200, axis=0))
    free = LogisticRegression().fit(x.numpy(), np.repeat([0, 1], 200)).coef_[0]
    assert free.min() < 0
    assert (combination(x[:200], x[200:])[:-1] >= 0).all()


def test_a_constant_part_does_no_harm() -> None:
    normal, abnormal = parts(2.0, 0.0)
    normal[:, 1] = abnormal[:, 1] = 7.0
    assert combination(normal, abnormal).isfinite().all()
