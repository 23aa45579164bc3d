"""Mean average precision against a walk down each ranking."""

import numpy as np
import pytest

from ray_app.metrics.retrieval import mean_average_precision


def walked(scores: np.ndarray, relevant: np.ndarray, kept: np.ndarray) -> float:
    found = []
    for row, truth, use in zip(scores, relevant, kept, strict=True):
        order = [i for i in np.argsort(-row) if use[i]]
        hits, precisions = 0, []
        for rank, i in enumerate(order, start=1):
            if truth[i]:
                hits += 1
                precisions.append(hits / rank)
        found.append(np.mean(precisions))
    return float(np.mean(found))


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_walk_down_the_ranking(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=30)
    scores = rng.normal(size=(10, 30))
    relevant = labels[:10, None] == labels
    kept = ~np.eye(10, 30, dtype=bool)
    kept[:, 20:] = rng.random((10, 10)) < 0.5
    relevant[:, 19] = True
    assert mean_average_precision(scores, relevant, kept) == pytest.approx(walked(scores, relevant, kept))
    everything = np.ones_like(kept)
    assert mean_average_precision(scores, relevant) == pytest.approx(walked(scores, relevant, everything))


def test_ends_of_the_scale_and_the_query_itself() -> None:
    scores, relevant = np.array([[3.0, 2.0, 1.0]]), np.array([[True, False, True]])
    assert mean_average_precision([[3, 2, 1]], [[True, True, False]]) == 1
    assert mean_average_precision(scores, relevant) == pytest.approx((1 + 2 / 3) / 2)
    # Without the best one, the other relevant entry is second of two.
    assert mean_average_precision(scores, relevant, [[False, True, True]]) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("scores", "relevant", "message"),
    [
        ([[1.0, 2.0]], [[True]], r"relevant \(1, 1\)"),
        ([1.0], [True], r"expected \[q, n\]"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "q >= 1"),
        ([[1.0, np.nan]], [[True, False]], "not finite"),
        ([[1.0, 2.0], [1.0, 2.0]], [[True, False], [False, False]], "query 1 has no relevant entry"),
    ],
)
def test_bad_arrays(scores: object, relevant: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_average_precision(scores, relevant)  # type: ignore[arg-type]
