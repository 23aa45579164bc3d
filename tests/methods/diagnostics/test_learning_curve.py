"""The loop's bookkeeping, and that a strategy which knows better gets a better curve."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from ray_app import registry
from ray_app.methods.diagnostics.learning_curve import LearningCurve
from ray_app.methods.encoders import Features
from ray_app.methods.selectors import Selection, Selector, View

Rows = tuple[Features, torch.Tensor]


def rows(n: int, seed: int) -> Rows:
    """Two frequent classes and two rare ones."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, size=n, p=[0.48, 0.48, 0.02, 0.02])
    x = rng.normal(size=(n, 6)) + 4 * np.eye(4, 6)[labels]
    return Features(torch.from_numpy(x.astype(np.float32))), torch.from_numpy(labels)


def make() -> Any:
    return registry.build("heads", "nearest_mean", {"num_classes": 4})


class Watching(Selector):
    """Takes the first rows, and keeps what it was shown."""

    needs = frozenset({"proba", "proba_mc"})

    def __init__(self) -> None:
        self.views: list[View] = []

    def budget(self, rows: int, total_cost: float) -> float:
        return 3

    def select(self, view: View, budget: float, rng: np.random.Generator) -> Selection:
        self.views.append(view)
        return Selection(np.arange(int(budget)))


def test_each_round_shows_what_is_left_and_what_is_known() -> None:
    pool, watching = rows(60, 0), Watching()
    curve = LearningCurve(seed_size=10, budget=3, rounds=4, repeats=1, members=2)
    table = curve.report(make, {"first": lambda: watching}, pool, rows(40, 1))
    assert table["labels"] == [10, 13, 16, 19, 22]
    assert [len(view) for view in watching.views] == [50, 47, 44, 41]
    seen: set[str] = set()
    for view in watching.views:
        assert view.row_ids is not None
        assert view.features is not None
        assert view.labelled_features is not None
        assert view.labelled_labels is not None
        assert view.proba_mc is not None
        assert not seen & set(view.row_ids.tolist())
        seen |= set(view.row_ids[:3].tolist())
        taken = np.setdiff1d(np.arange(60), view.row_ids.astype(int))
        assert sorted(view.labelled_labels.tolist()) == sorted(pool[1][taken].tolist())
        assert np.array_equal(view.features, pool[0].pooled[view.row_ids.astype(int)].numpy())
        assert view.proba_mc.shape == (2, len(view), 4)


def test_diversity_finds_rare_classes_sooner_than_chance() -> None:
    query: Callable[[str], Any] = lambda name: partial(registry.build, "selectors", name)  # noqa: E731
    queries = {"random": query("query_random"), "coreset": query("query_coreset")}
    curve = LearningCurve(seed_size=8, budget=4, rounds=5, repeats=4)
    table = curve.report(make, queries, rows(600, 0), rows(800, 1))
    areas = curve.areas(table)
    assert list(areas) == ["random", "coreset"]
    assert all(len(each) == 4 for each in areas.values())
    first = [one for one, labels in zip(table["accuracy"], table["labels"], strict=True) if labels == 8]
    assert first[0] == first[1]
    assert np.mean(areas["coreset"]) > np.mean(areas["random"])
    assert curve.report(make, queries, rows(600, 0), rows(800, 1)) == table


@pytest.mark.parametrize("name", [name for name in registry.names("selectors") if name.startswith("query_")])
def test_every_strategy_goes_round(name: str) -> None:
    curve = LearningCurve(seed_size=8, budget=4, rounds=2, repeats=1, members=2)
    table = curve.report(make, {name: partial(registry.build, "selectors", name)}, rows(80, 0), rows(40, 1))
    assert table["labels"] == [8, 12, 16]


def test_more_labels_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="would label 220 rows of 50; ask for fewer"):
        LearningCurve().report(make, {}, rows(50, 0), rows(5, 1))
    with pytest.raises(ValueError, match="rounds must be >= 1, got 0"):
        LearningCurve(rounds=0)
