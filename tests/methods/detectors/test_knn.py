"""KNN against a float64 loop in NumPy and pytorch-ood."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ray_app.methods.detectors import knn
from ray_app.methods.detectors.knn import KNN
from ray_app.methods.encoders import Features


def draw(n: int, seed: int, offset: float = 0.0) -> Tensor:
    return torch.from_numpy((np.random.default_rng(seed).normal(size=(n, 16)) + offset).astype(np.float32))


def brute_force(train: Tensor, test: Tensor, k: int, *, normalize: bool) -> np.ndarray:
    x, t = train.double().numpy(), test.double().numpy()
    if normalize:
        x, t = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, t))
    return np.array([np.sort(np.linalg.norm(x - row, axis=1))[min(k, len(x)) - 1] for row in t])


@pytest.mark.parametrize(
    ("k", "n", "offset", "normalize"),
    [
        (1, 200, 0.0, True),
        (7, 200, 0.0, True),
        (50, 20, 0.0, True),
        (1, 200, 0.0, False),
        (50, 20, 0.0, False),
        # Far from zero all directions are one to float32, so only lengths are compared there.
        (3, 200, 1e4, False),
    ],
)
def test_agrees_with_brute_force(k: int, n: int, offset: float, *, normalize: bool) -> None:
    train, test = draw(n, 0, offset), draw(60, 1, offset)
    ours = KNN(k=k, normalize=normalize).fit(Features(train)).score(Features(test))
    np.testing.assert_allclose(ours, brute_force(train, test, k, normalize=normalize), rtol=1e-4)


def test_agrees_with_pytorch_ood() -> None:
    import pytorch_ood.detector as theirs

    train, test = draw(200, 0), draw(60, 1)
    reference = theirs.KNN(None, k=5).fit_features(train, torch.zeros(200, dtype=torch.int64))
    ours = KNN(k=5).fit(Features(train)).score(Features(test))
    np.testing.assert_allclose(ours, reference.predict_features(test), rtol=1e-4)


def test_rows_of_the_bank_are_at_distance_zero() -> None:
    train = draw(100, 0)
    assert (KNN(k=1).fit(Features(train)).score(Features(train)) == 0).all()


def test_accelerators_path_gives_the_same_rows() -> None:
    bank, x = draw(300, 0), draw(80, 1)
    torch.testing.assert_close(knn._kth_by_torch(x, bank, 9), knn._kth_by_faiss(x, bank, 9))


def test_sample_does_not_depend_on_order_or_parts() -> None:
    train = draw(500, 0)
    whole = KNN(k=3, sample=40).fit(Features(train))
    order = torch.from_numpy(np.random.default_rng(0).permutation(500))
    parts = [KNN(k=3, sample=40).fit(Features(part)) for part in torch.split(train[order], 77)]
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(part)
    assert whole.bank.shape == (40, 16)
    assert sorted(map(tuple, whole.bank.tolist())) == sorted(map(tuple, merged.bank.tolist()))


def test_sample_is_spread_evenly() -> None:
    # Of 2000 rows in two halves, a fair sample of 400 takes 200 +- 10 from each.
    train = torch.cat([draw(1000, 0), draw(1000, 1) + 20])
    bank = KNN(sample=400, normalize=False).fit(Features(train)).bank
    assert 150 < int((bank.mean(1) > 10).sum()) < 250


@pytest.mark.parametrize(
    ("options", "message"), [({"k": 0}, "k must be >= 1"), ({"sample": 0}, "leave it out")]
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KNN(**options)
