"""Linear SVM against scikit-learn on the same unit features."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC

from ray_app.methods.encoders import Features
from ray_app.methods.heads.linear_svm import LinearSVM
from ray_app.metrics.calibration import ece


def digits(c: int = 10, n: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_digits(n_class=c, return_X_y=True)
    return torch.from_numpy(x[:n].astype(np.float32)), torch.from_numpy(y[:n])


@pytest.mark.parametrize("c", [2, 10])
@pytest.mark.parametrize("power", [None, 0.5])
def test_predicts_what_scikit_learn_does(c: int, power: float | None) -> None:
    x, y = digits(c)
    rows = x.double().numpy() ** (power or 1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    reference = LinearSVC(C=1.0, max_iter=5000, random_state=0).fit(rows, y.numpy())
    head = LinearSVM(power=power).fit(Features(x), y)
    np.testing.assert_array_equal(head.predict_proba(Features(x)).argmax(1), reference.predict(rows))


def test_grid_prefers_what_generalises() -> None:
    x, y = digits()
    chosen = LinearSVM(grid=[1e-5, 1.0]).fit(Features(x), y)
    torch.testing.assert_close(chosen.weight, LinearSVM(C=1.0).fit(Features(x), y).weight)


def test_temperature_makes_margins_into_probabilities() -> None:
    x, y = digits(n=1700)
    head = LinearSVM().fit(Features(x[:800]), y[:800])
    test = Features(x[800:])
    raw = LinearSVC(C=1.0, max_iter=5000, random_state=0).fit(
        head._rows(x[:800].double()).numpy(), y[:800].numpy()
    )
    margins = torch.from_numpy(raw.decision_function(head._rows(x[800:].double()).numpy()))
    truth = y[800:].numpy()
    assert ece(head.predict_proba(test), truth) < 0.1 < ece(torch.softmax(margins, 1), truth)


def test_one_row_a_class_holds_nothing_out() -> None:
    x, y = digits(3)
    first = torch.tensor([int((y == c).nonzero()[0]) for c in range(3)])
    head = LinearSVM(grid=[0.1, 1.0]).fit(Features(x[first]), y[first])
    assert (head.predict_proba(Features(x[first])).argmax(1) == y[first]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"C": 0}, "must be > 0"), ({"grid": []}, "empty"), ({"holdout": 1}, "0.25"), ({"power": 0}, "try 0.5")],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearSVM(**options)
