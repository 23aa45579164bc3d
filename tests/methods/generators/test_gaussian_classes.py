"""Gaussian classes: moments as documented, and the least error against the best classifier itself."""

import numpy as np
import pytest

from ray_app.methods.generators.gaussian_classes import GaussianClasses


def test_moments_of_each_class() -> None:
    batch = GaussianClasses(num_classes=4, dim=16).at(range(8000), 0)
    assert batch["tensor"].dtype == np.float32
    for label, mean in enumerate([-1, 1, 2, 4]):
        rows = batch["tensor"][batch["label"] == label].astype(float)
        assert len(rows) == pytest.approx(2000, abs=200)
        np.testing.assert_allclose(rows.mean(0), mean, atol=0.4)
        np.testing.assert_allclose(rows.var(0), [16] * 8 + [1] * 8, rtol=0.2)


@pytest.mark.parametrize(("num_classes", "dim"), [(2, 1), (3, 4), (5, 7)])
def test_bayes_error_is_that_of_the_true_densities(num_classes: int, dim: int) -> None:
    task = GaussianClasses(num_classes=num_classes, dim=dim)
    batch = task.at(range(20_000), 1)
    x = batch["tensor"].astype(float)
    log_density = [-((x - mean) ** 2 / (2 * task.stds**2)).sum(1) for mean in task.means]
    error = np.mean(np.argmax(log_density, 0) != batch["label"])
    # Three standard errors of a share of 20,000 rows.
    assert error == pytest.approx(task.bayes_error, abs=3 * np.sqrt(0.25 / 20_000))


@pytest.mark.parametrize(("options", "message"), [({"num_classes": 1}, ">= 2"), ({"dim": 0}, "try 100")])
def test_bad_options(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianClasses(**options)
