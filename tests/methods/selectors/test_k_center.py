"""Greedy choice against its definition, and against the best there is."""

from itertools import combinations

import numpy as np
import pytest

from ray_app.methods.selectors import View
from ray_app.methods.selectors.k_center import KCenter


def pool(n: int, seed: int, labelled: int = 0) -> View:
    rng = np.random.default_rng(seed)
    return View(
        row_ids=np.array([f"r{i}" for i in range(n)], dtype=object),
        features=(rng.normal(size=(n, 3)) + 1000).astype(np.float32),
        labelled_features=(rng.normal(size=(labelled, 3)) + 1000).astype(np.float32) if labelled else None,
    )


def greedy(x: np.ndarray, start: list[np.ndarray], k: int) -> list[int]:
    chosen: list[int] = []
    centres = list(start)
    while len(chosen) < k:
        if centres:
            distance = np.array([min(np.linalg.norm(row - c) for c in centres) for row in x])
            distance[chosen] = -1
            row = int(distance.argmax())
        else:
            row = int(np.linalg.norm(x - x.mean(0), axis=1).argmin())
        chosen.append(row)
        centres.append(x[row])
    return chosen


@pytest.mark.parametrize("labelled", [0, 3])
def test_choice_is_the_definition(labelled: int) -> None:
    view = pool(40, 0, labelled)
    assert view.features is not None
    start = [] if view.labelled_features is None else list(view.labelled_features.astype(float))
    got = KCenter(budget=8).select(view, 8, np.random.default_rng(0))
    assert got.indices.tolist() == greedy(view.features.astype(float), start, 8)


@pytest.mark.parametrize("seed", range(3))
def test_radius_is_at_most_twice_the_best(seed: int) -> None:
    view = pool(12, seed)
    assert view.features is not None
    x = view.features.astype(float)
    distance = np.linalg.norm(x[:, None] - x, axis=2)
    best = min(distance[:, list(centres)].min(1).max() for centres in combinations(range(12), 3))
    radius = KCenter(budget=3).select(view, 3, np.random.default_rng(0)).notes["radius"]
    assert best - 1e-4 <= radius <= 2 * best + 1e-4


def test_all_rows_leave_no_distance_and_copies_come_last() -> None:
    view = pool(6, 0)
    assert view.features is not None
    twice = View(
        row_ids=np.array([f"r{i}" for i in range(12)], dtype=object),
        features=np.concatenate([view.features, view.features]),
    )
    got = KCenter(fraction=0.5).select(twice, 6, np.random.default_rng(0))
    assert len({row % 6 for row in got.indices.tolist()}) == 6
    assert got.notes["radius"] == 0


def test_options() -> None:
    assert KCenter(budget=5, sample=7).most_rows == 7
    with pytest.raises(ValueError, match="sample must be >= 1 rows, got 0"):
        KCenter(budget=5, sample=0)
    with pytest.raises(ValueError, match="give exactly one"):
        KCenter()
