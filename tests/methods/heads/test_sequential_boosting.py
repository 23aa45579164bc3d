"""Sequential boosting against the algorithm written as a loop over nets; what a prefix is; hard numbers."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from ray_app.methods.encoders import Features
from ray_app.methods.heads.sequential_boosting import SequentialBoosting
from ray_app.testing._rows import rows


def wine() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_wine(return_X_y=True)
    return x.astype(np.float32), y.astype(np.int64)


def features(x: np.ndarray) -> Features:
    return Features(torch.from_numpy(x))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_it_is_the_boosted_sum_of_small_nets() -> None:
    x, y = wine()
    # Few iterations: after many, L-BFGS has made something of every rounding error.
    head = SequentialBoosting(steps=5, units=2, eta=0.4, subsample=0.6, max_iter=15, seed=3)
    head.fit(features(x), torch.from_numpy(y))
    scaled = StandardScaler().fit_transform(x.astype(np.float64))
    rng = np.random.default_rng(3)
    total = np.zeros((len(y), 3))
    for step in range(5):
        proba = torch.softmax(torch.from_numpy(total), 1).numpy()
        residuals = np.eye(3)[y] - proba
        chosen = rng.permutation(len(y))[: round(0.6 * len(y))]
        net = MLPRegressor(
            hidden_layer_sizes=(2,),
            activation="logistic",
            solver="lbfgs",
            alpha=1e-4,
            max_iter=15,
            tol=0,
            random_state=int(rng.integers(2**31)),
        ).fit(scaled[chosen], residuals[chosen])
        fitted = net.predict(scaled)
        above = below = 0.0
        for row in range(len(y)):
            for c in range(3):
                above += fitted[row, c] * residuals[row, c]
                below += fitted[row, c] ** 2 * proba[row, c] * (1 - proba[row, c])
        total = total + 0.4 * min(max(above / below, -10), 10) * fitted
        # A prefix is the sum so far: neither weights nor biases of what comes later are in it.
        torch.testing.assert_close(
            head.logits(features(x), steps=step + 1), torch.from_numpy(total), rtol=1e-5, atol=1e-5
        )
    torch.testing.assert_close(head.logits(features(x)), head.logits(features(x), steps=5))


@pytest.mark.parametrize("steps", [None, 1, 4])
def test_the_assembled_net_is_the_boosted_sum(steps: int | None) -> None:
    x, y = wine()
    y = y * 2  # classes 1 and 3 are never seen
    head = SequentialBoosting(steps=6, units=2, max_iter=30).fit(features(x), torch.from_numpy(y))
    net = head.to_module(steps)
    assert [tuple(net[place].weight.shape) for place in (0, 2)] == [
        ((steps or 6) * 2, 13),
        (5, (steps or 6) * 2),
    ]
    torch.testing.assert_close(net(torch.from_numpy(x).double()), head.logits(features(x), steps))
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        head.to_module(0)


def test_no_step_at_all_knows_nothing() -> None:
    x, y = wine()
    head = SequentialBoosting(steps=2).fit(features(x), torch.from_numpy(y))
    torch.testing.assert_close(head.predict_proba(features(x), steps=0), torch.full((len(y), 3), 1 / 3))
    with pytest.raises(ValueError, match=r"steps must be 0\.\.2, which were trained; got 3"):
        head.predict_proba(features(x), steps=3)


def test_it_learns_what_no_line_divides() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    head = SequentialBoosting(steps=20, units=4).fit(features(x[:300]), torch.from_numpy(y[:300]))
    ours = (head.predict_proba(features(x[300:])).argmax(1).numpy() == y[300:]).mean()
    linear = LogisticRegression().fit(x[:300], y[:300]).score(x[300:], y[300:])
    assert ours > 0.9 > 0.7 > linear


def test_each_step_lowers_the_loss_on_training_rows() -> None:
    data, labels = rows(90, 0)
    head = SequentialBoosting(steps=8, subsample=1.0, eta=0.5).fit(data, labels)
    losses = [
        torch.nn.functional.nll_loss(head.predict_proba(data, steps=k).clamp(min=1e-12).log(), labels).item()
        for k in range(9)
    ]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"eta": 1.5}, r"eta must be in 0\.\.1, above 0, got 1\.5; try 0\.5"),
        ({"subsample": 0}, "subsample must be in"),
        ({"penalty": -1}, "penalty must be >= 0"),
    ],
)
def test_options_out_of_their_bounds(options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SequentialBoosting(**options)
