"""Class statistics against NumPy in float64, and their sums."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.methods._covariance import Moments, tied_covariance


def draw(n: int, seed: int, offset: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)) * [1, 10, 0.1, 1] + offset
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(rng.integers(3, size=n))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_against_numpy(*, tied: bool, offset: float) -> None:
    x, labels = draw(5000, 0, offset)
    moments = Moments.of(x, labels, 4, tied=tied)
    rows, y = x.double().numpy(), labels.numpy()
    assert moments.counts.tolist() == np.bincount(y, minlength=4).tolist()
    np.testing.assert_allclose(moments.centre, rows.mean(0), rtol=1e-10)
    parts = [rows[y == c] - rows[y == c].mean(0) for c in range(3)]
    each = np.stack([(part**2).sum(0) for part in parts] + [np.zeros(4)])
    whole = sum(part.T @ part for part in parts)
    np.testing.assert_allclose(moments.scatter, whole if tied else each, rtol=1e-6, atol=1e-6)
    assert moments.seen.tolist() == [0, 1, 2]


@settings(derandomize=True, deadline=None)
@given(tied=st.booleans(), cut=st.integers(0, 60), offset=st.sampled_from([0.0, 1e3]), seed=st.integers(0, 3))
def test_sums_of_parts_are_the_whole(*, tied: bool, cut: int, offset: float, seed: int) -> None:
    x, labels = draw(60, seed, offset)
    whole = Moments.of(x, labels, 3, tied=tied)
    # A part knows only the classes that it met.
    sizes = [int(part.max()) + 1 if len(part) else 0 for part in (labels[:cut], labels[cut:])]
    first = Moments.of(x[:cut], labels[:cut], sizes[0], tied=tied)
    second = Moments.of(x[cut:], labels[cut:], sizes[1], tied=tied)
    for a, b in ((first, second), (second, first)):
        both = a.add(b)
        torch.testing.assert_close(both.counts, whole.counts[: len(both.counts)])
        torch.testing.assert_close(both.means, whole.means[: len(both.means)], rtol=1e-10, atol=1e-8)
        expected = whole.scatter if tied else whole.scatter[: len(both.scatter)]
        torch.testing.assert_close(both.scatter, expected, rtol=1e-8, atol=1e-6)


def test_no_rows_are_neutral() -> None:
    some = Moments.of(*draw(10, 0), 3, tied=True)
    none = Moments.none(tied=True)
    assert some.add(none) is some
    assert none.add(some) is some


def test_shrunk_covariances_have_an_inverse() -> None:
    rank_one = torch.ones(5, 5, dtype=torch.float64)
    for shrinkage in (1e-6, "oas", 1.0):
        torch.linalg.cholesky(tied_covariance(rank_one, 1, shrinkage))  # type: ignore[arg-type]
    torch.linalg.cholesky(tied_covariance(torch.zeros_like(rank_one), 1, 0.0))
