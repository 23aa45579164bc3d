"""Diagnostics on data whose answer is known."""

import numpy as np
import pytest
import torch

from ray_app.methods.diagnostics.linear_separability import LinearSeparability
from ray_app.methods.diagnostics.sample_efficiency import SampleEfficiency
from ray_app.methods.encoders import Features
from ray_app.methods.heads.logistic import Logistic
from ray_app.methods.heads.naive_bayes import NaiveBayes


def cloud(n: int, d: int, mean: float, seed: int) -> Features:
    rows = np.random.default_rng(seed).normal(size=(n, d)) + mean
    return Features(torch.from_numpy(rows.astype(np.float32)))


def test_separability_runs_from_chance_to_certainty() -> None:
    same = LinearSeparability().report(cloud(1000, 4, 0, 0), cloud(1000, 4, 0, 1))
    apart = LinearSeparability().report(cloud(100, 4, 0, 0), cloud(900, 4, 5, 1))
    assert same["auroc"] == pytest.approx(0.5, abs=0.05)
    assert same["accuracy"] == pytest.approx(0.5, abs=0.05)
    assert apart == {"accuracy": 1.0, "auroc": 1.0}


def test_separability_weighs_both_sets_the_same() -> None:
    report = LinearSeparability().report(cloud(20, 4, 0, 0), cloud(2000, 4, 0, 1))
    assert report["accuracy"] == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ValueError, match="1 and 20 rows"):
        LinearSeparability().report(cloud(1, 4, 0, 0), cloud(20, 4, 0, 1))


def gaussians(n: int, seed: int) -> tuple[Features, torch.Tensor]:
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    x = rng.normal(size=(n, 60)) + np.where(y, 0.15, -0.15)[:, None]
    return Features(torch.from_numpy(x.astype(np.float32))), torch.from_numpy(y)


def test_naive_bayes_needs_fewer_rows_than_logistic() -> None:
    study = SampleEfficiency(sizes=[10, 100, 1000], repeats=3)
    heads = {"naive_bayes": NaiveBayes, "logistic": lambda: Logistic(C=1e3)}
    table = study.report(heads, gaussians(2000, 0), gaussians(2000, 1))
    assert {len(column) for column in table.values()} == {18}
    assert set(table) == {"head", "size", "repeat", "error"}
    error = {
        (head, size): np.mean(
            [
                e
                for h, s, e in zip(table["head"], table["size"], table["error"], strict=True)
                if (h, s) == (head, size)
            ]
        )
        for head in heads
        for size in study.sizes
    }
    assert error["naive_bayes", 100] < error["logistic", 100] - 0.01
    assert table == study.report(heads, gaussians(2000, 0), gaussians(2000, 1))


def test_crossing_is_the_size_from_which_on_the_second_is_ahead() -> None:
    table = {
        "head": ["a", "b"] * 4,
        "size": [1, 1, 2, 2, 3, 3, 4, 4],
        "repeat": [0] * 8,
        "error": [0.3, 0.2, 0.2, 0.4, 0.2, 0.2, 0.2, 0.1],
    }
    assert SampleEfficiency.crossing(table, "a", "b") == 3
    assert SampleEfficiency.crossing(table, "b", "a") is None


def test_needed_is_the_first_size_of_the_table_that_reaches_the_target() -> None:
    study = SampleEfficiency(sizes=[4, 10, 40, 100], repeats=3)
    train, test = gaussians(500, 0), gaussians(1000, 1)
    table = study.report({"naive_bayes": NaiveBayes}, train, test)
    errors = np.reshape(table["error"], (4, 3)).mean(1)
    for target in (0.1, float(errors[1]), 0.3, 1.0):
        reached = [size for size, error in zip(study.sizes, errors, strict=True) if error <= target]
        assert study.needed(NaiveBayes, train, test, target) == (reached[0] if reached else None)
    with pytest.raises(ValueError, match="50 rows"):
        SampleEfficiency(sizes=[5, 500]).needed(NaiveBayes, gaussians(50, 0), test, 0.1)


def test_growth_is_the_exponent() -> None:
    assert SampleEfficiency.growth([10, 20, 40], [7, 7, 7]) == pytest.approx(0)
    assert SampleEfficiency.growth([10, 20, 40], [30, 60, 120]) == pytest.approx(1)
    assert SampleEfficiency.growth([10, 1000], [4, 40]) == pytest.approx(0.5)


@pytest.mark.parametrize("sizes", [[], [3, 2], [0, 1]])
def test_bad_sizes(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        SampleEfficiency(sizes=sizes)


def test_sizes_that_do_not_fit_the_data() -> None:
    with pytest.raises(ValueError, match="the least must hold every class"):
        SampleEfficiency(sizes=[1, 5]).report({}, gaussians(50, 0), gaussians(50, 1))
    with pytest.raises(ValueError, match="50 rows"):
        SampleEfficiency(sizes=[5, 500]).report({}, gaussians(50, 0), gaussians(50, 1))
