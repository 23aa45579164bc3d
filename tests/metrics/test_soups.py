"""The analytic check of soups: exact where its approximation is."""

import numpy as np
import pytest

from ray_app.metrics.soups import soup_against_ensemble


def loss(logits: np.ndarray, labels: np.ndarray) -> float:
    proba = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return float(-np.log(proba[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("mix", [0.3, 0.5])
def test_a_bent_path_through_logits_is_foreseen(mix: float) -> None:
    rng = np.random.default_rng(0)
    first, labels = rng.normal(size=(500, 4)), rng.integers(0, 4, 500)
    second = first + 0.1 * rng.normal(size=(500, 4))
    bend = 0.05 * rng.normal(size=(500, 4))

    def soup(share: float) -> np.ndarray:
        # A network's logits are not linear along the line: this bend is what makes a soup another model.
        return (1 - share) * first + share * second + share * (1 - share) * bend

    gap = soup_against_ensemble(
        (first, second), [soup(mix + s) for s in (-0.05, 0, 0.05)], labels, mix=mix, step=0.05
    )
    assert gap["measured"] == pytest.approx(
        loss(soup(mix), labels) - loss((1 - mix) * first + mix * second, labels)
    )
    assert gap["predicted"] == pytest.approx(gap["measured"], rel=0.1)


def test_along_a_straight_line_there_is_no_gap_and_the_terms_cancel() -> None:
    rng = np.random.default_rng(1)
    first, labels = 2 * rng.normal(size=(300, 3)), rng.integers(0, 3, 300)
    second = first + 0.2 * rng.normal(size=(300, 3))
    line = [(1 - s) * first + s * second for s in (0.49, 0.5, 0.51)]
    gap = soup_against_ensemble((first, second), line, labels, mix=0.5, step=0.01)
    assert gap["measured"] == 0
    assert gap["variance"] > 1e-4
    assert gap["curvature"] == pytest.approx(-gap["variance"], rel=1e-3)


def test_a_line_that_leaves_its_ends_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mix 0.5 and step 0.5 leave 0..1; try 0.5 and 0.1"):
        soup_against_ensemble(([[0.0]], [[0.0]]), ([[0.0]],) * 3, [0], mix=0.5, step=0.5)
