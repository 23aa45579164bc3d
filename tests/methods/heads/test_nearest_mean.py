"""Nearest mean against scikit-learn and its formulas."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from ray_app.methods.encoders import Features
from ray_app.methods.heads.nearest_mean import NearestMean


def draw(n: int = 400, d: int = 8, c: int = 5, seed: int = 0, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).normal(size=(c, d))
    labels = np.concatenate([np.arange(c), rng.integers(c, size=n - c)])
    x = rng.normal(size=(n, d)) * spread + means[labels]
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels)


def test_predicts_what_scikit_learn_does() -> None:
    (x, y), (test, _) = draw(), draw(seed=1)
    reference = NearestCentroid().fit(x.numpy(), y.numpy()).predict(test.numpy())
    ours = NearestMean().fit(Features(x), y).predict_proba(Features(test)).argmax(1)
    np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "mahalanobis"])
@pytest.mark.parametrize("normalize", [True, False])
def test_probabilities_follow_the_formula(metric: str, *, normalize: bool) -> None:
    (x, y), (test, _) = draw(), draw(60, seed=1)
    head = NearestMean(metric=metric, normalize=normalize, temperature=0.7).fit(Features(x), y)
    rows, t = x.double().numpy(), test.double().numpy()
    if normalize or metric == "cosine":
        rows, t = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (rows, t))
    means = np.stack([rows[y.numpy() == c].mean(0) for c in range(5)])
    precision = np.eye(8)
    if metric == "mahalanobis":
        centred = rows - means[y.numpy()]
        covariance = centred.T @ centred / len(rows)
        precision = np.linalg.inv(covariance * (1 - 1e-6) + 1e-6 * np.trace(covariance) / 8 * np.eye(8))
    if metric == "cosine":
        means /= np.linalg.norm(means, axis=1, keepdims=True)
    gap = t[:, None] - means[None]
    expected = softmax(-np.einsum("ncd,de,nce->nc", gap, precision, gap) / 0.7, axis=1)
    np.testing.assert_allclose(head.predict_proba(Features(test)), expected, atol=1e-5)
    weight, bias = head.to_linear()
    np.testing.assert_allclose(softmax(t @ weight.numpy().T + bias.numpy(), axis=1), expected, atol=1e-5)


@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
def test_own_temperature_is_calibrated_on_gaussian_classes(metric: str) -> None:
    # For round Gaussian classes of equal size the right temperature is 2 sigma^2 (for mahalanobis, 2): the
    # mean confidence then equals the accuracy. 20,000 rows give a standard error below 0.004.
    (x, y), (test, truth) = draw(20_000, spread=1.5), draw(20_000, seed=1, spread=1.5)
    proba = NearestMean(metric=metric).fit(Features(x), y).predict_proba(Features(test))
    accuracy = float((proba.argmax(1) == truth).float().mean())
    assert float(proba.amax(1).mean()) == pytest.approx(accuracy, abs=0.012)


def test_unseen_classes_are_impossible_and_forgetting_unlearns() -> None:
    x, y = draw()
    part = y != 2
    never = NearestMean(num_classes=7).fit(Features(x[part]), y[part])
    proba = never.predict_proba(Features(x))
    assert proba.shape == (400, 7)
    assert (proba[:, [2, 5, 6]] == 0).all()
    forgot = NearestMean(num_classes=7).fit(Features(x), y).forget(2)
    torch.testing.assert_close(forgot.predict_proba(Features(x)), proba)
    with pytest.raises(ValueError, match=r"cannot forget class 2; seen: \[0, 1, 3, 4\]"):
        forgot.forget(2)


def test_class_incremental_learning_forgets_nothing() -> None:
    x, y = draw()
    whole = NearestMean().fit(Features(x), y)
    steps = NearestMean()
    for label in (3, 0, 4, 1, 2):
        steps.partial_fit(Features(x[y == label]), y[y == label])
    torch.testing.assert_close(steps.predict_proba(Features(x)), whole.predict_proba(Features(x)))


def test_one_row_a_class_still_gives_probabilities() -> None:
    x, y = draw(n=5)
    proba = NearestMean().fit(Features(x), y).predict_proba(Features(x))
    assert torch.isfinite(proba).all()
    assert (proba.argmax(1) == y).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "manhattan"}, "euclidean, cosine or mahalanobis"),
        ({"temperature": 0}, "leave it out"),
        ({"num_classes": 0}, "num_classes must be >= 1"),
        ({"shrinkage": -1}, "0..1"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NearestMean(**options)
