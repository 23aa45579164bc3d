"""Logistic regression against scikit-learn's pipeline, with the scaling unfolded."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ray_app.methods.encoders import Features
from ray_app.methods.heads.logistic import Logistic


def draw(c: int, offset: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    labels = rng.integers(c, size=200)
    x = rng.normal(size=(200, 6)) * [0.01, 1, 1, 10, 100, 1] + rng.normal(size=(c, 6))[labels] + offset
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels)


@pytest.mark.parametrize("c", [2, 4])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_equals_standardised_scikit_learn(c: int, offset: float) -> None:
    x, y = draw(c, offset)
    rows = x.double().numpy()
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(rows, y.numpy())
    head = Logistic().fit(Features(x), y)
    np.testing.assert_allclose(head.predict_proba(Features(x)), reference.predict_proba(rows), atol=1e-4)
    weight, bias = head.to_linear()
    proba = torch.softmax(x.double() @ weight.T + bias, 1).float()
    torch.testing.assert_close(proba, head.predict_proba(Features(x)))


@pytest.mark.parametrize("c", [2, 4])
def test_unscaled_equals_scikit_learn_on_raw_features(c: int) -> None:
    x, y = draw(c)
    rows = x.double().numpy()
    reference = LogisticRegression(C=0.1, max_iter=1000).fit(rows, y.numpy())
    proba = Logistic(C=0.1, standardize=False).fit(Features(x), y).predict_proba(Features(x))
    np.testing.assert_allclose(proba, reference.predict_proba(rows), atol=1e-4)
    assert not np.allclose(proba, Logistic(C=0.1).fit(Features(x), y).predict_proba(Features(x)), atol=0.01)


def test_gaps_between_classes_stay_impossible() -> None:
    x, y = draw(2)
    proba = Logistic(num_classes=5).fit(Features(x), y * 3).predict_proba(Features(x))
    assert (proba[:, [1, 2, 4]] == 0).all()


@pytest.mark.parametrize(("options", "message"), [({"C": 0}, "try 1.0"), ({"max_iter": 0}, "try 1000")])
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Logistic(**options)
