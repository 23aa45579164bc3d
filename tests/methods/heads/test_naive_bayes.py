"""Naive Bayes against scikit-learn, SciPy and its own linear form."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import norm
from sklearn.naive_bayes import GaussianNB
from torch import Tensor

from ray_app.methods.encoders import Features
from ray_app.methods.heads.naive_bayes import NaiveBayes


def draw(n: int = 300, seed: int = 0, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.4, size=n) - 1, 3)
    means, scale = np.random.default_rng(7).normal(size=(4, 6)), np.array([0.1, 0.5, 1, 2, 5, 1])
    x = rng.normal(size=(n, 6)) * scale + means[labels] + offset
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels)


@pytest.mark.parametrize("priors", ["empirical", "uniform"])
def test_own_variances_equal_scikit_learn(priors: str) -> None:
    (x, y), (test, _) = draw(), draw(seed=1)
    given = None if priors == "empirical" else np.full(4, 0.25)
    reference = GaussianNB(priors=given).fit(x.double().numpy(), y.numpy())
    head = NaiveBayes(shared_variance=False, priors=priors).fit(Features(x), y)
    expected = reference.predict_proba(test.double().numpy())
    np.testing.assert_allclose(head.predict_proba(Features(test)), expected, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_shared_variance_follows_the_formula(offset: float) -> None:
    (x, y), (test, _) = draw(offset=offset), draw(60, seed=1, offset=offset)
    rows, truth = x.double().numpy(), y.numpy()
    means = np.stack([rows[truth == c].mean(0) for c in range(4)])
    prior = np.bincount(truth) / len(truth)
    variance = sum(prior[c] * rows[truth == c].var(0) for c in range(4)) + 1e-9 * rows.var(0).max()
    log_p = norm.logpdf(test.double().numpy()[:, None], means, np.sqrt(variance)).sum(2) + np.log(prior)
    head = NaiveBayes().fit(Features(x), y)
    np.testing.assert_allclose(head.predict_proba(Features(test)), softmax(log_p, axis=1), atol=1e-5)


def test_linear_form_is_the_same_classifier() -> None:
    x, y = draw()
    head = NaiveBayes().fit(Features(x), y)
    weight, bias = head.to_linear()
    proba = torch.softmax(x.double() @ weight.T + bias, 1).float()
    torch.testing.assert_close(proba, head.predict_proba(Features(x)))
    with pytest.raises(ValueError, match="shared_variance=True"):
        NaiveBayes(shared_variance=False).fit(Features(x), y).to_linear()


@pytest.mark.parametrize("shared", [True, False])
def test_dead_features_decide_nothing(*, shared: bool) -> None:
    x, y = draw()
    dead = torch.cat([x, torch.zeros(len(x), 2)], 1)
    alive = NaiveBayes(shared_variance=shared).fit(Features(x), y).predict_proba(Features(x))
    with_dead = NaiveBayes(shared_variance=shared).fit(Features(dead), y).predict_proba(Features(dead))
    torch.testing.assert_close(with_dead, alive)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"var_smoothing": -1}, ">= 0, got -1"), ({"priors": "own"}, "empirical or uniform")],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NaiveBayes(**options)
