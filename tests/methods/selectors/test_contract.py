"""Every selector of rows keeps its family's contract; a new one is covered by existing."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from ray_app import registry
from ray_app.methods.selectors import Selector, View, affordable
from ray_app.testing.selectors import check_selector
from tests.methods.selectors.pool import pool

# A source that the pool has.
TARGET = str(pool().texts[0])  # type: ignore[index]  # this pool has texts

# What a method cannot do without, and options that change the algorithm.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "top_fraction": [
        {"by": "score_x", "fraction": 0.3},
        {"by": "score_x", "budget": 7, "order": "ascending"},
    ],
    "threshold": [{"by": "score_x", "at_least": 0.4}, {"by": "score_x", "at_most": 0.4}],
    "stratified": [
        {"fraction": 0.3},
        {"budget": 11, "shares": "equal", "by": "score_x"},
        {"budget": 11, "shares": "equal", "seed": 3},
    ],
    "exact_duplicates": [{}, {"column": None}, {"fold": True, "by": "score_x"}],
    "near_duplicates": [{}, {"unit": "char", "threshold": 0.6, "by": "score_x"}, {"permutations": 16}],
    "semantic_duplicates": [{}, {"threshold": 0.8, "clusters": 3, "by": "score_x"}],
    "lasso_sources": [
        {"target": TARGET, "fraction": 0.4, "rank": 2, "floor": 0},
        {"target": TARGET, "budget": 9, "rank": 2, "norm": "uniform"},
    ],
    "k_center": [{"fraction": 0.2}, {"budget": 5, "normalize": True}],
}


def cases() -> list[Any]:
    found = []
    for name in registry.names("selectors"):
        if not issubclass(registry.load("selectors", name), Selector):
            continue
        for options in OPTIONS.get(name, [{}]):
            words = ",".join(f"{key}={value}" for key, value in options.items())
            found.append(
                pytest.param(partial(registry.build, "selectors", name, options), id=f"{name}[{words}]")
            )
    return found


@pytest.mark.parametrize("make", cases())
def test_contract(make: Any) -> None:
    check_selector(make, pool())


@pytest.mark.parametrize("make", cases())
def test_costs_are_respected(make: Any) -> None:
    costs = np.random.default_rng(3).integers(1, 9, size=40).astype(float)
    check_selector(make, replace(pool(), costs=costs))


@pytest.mark.parametrize("make", cases())
def test_one_row(make: Any) -> None:
    selector, one = make(), pool().take(slice(0, 1))
    if hasattr(selector, "fit"):
        selector.fit(one, np.random.default_rng(0))
    assert set(selector.select(one, 1.0, np.random.default_rng(0)).indices.tolist()) <= {0}


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"k_center: needs features.*\(given: row_ids\)"):
        registry.build("selectors", "k_center", {"budget": 2}).select(
            View(row_ids=np.array(["a"], dtype=object)), 1, np.random.default_rng(0)
        )


def test_a_cost_that_is_no_number_names_its_row() -> None:
    view = replace(pool(), costs=np.where(np.arange(40) == 7, np.nan, 1.0))
    with pytest.raises(ValueError, match="row 7 costs nan; expected numbers >= 0"):
        view.spending()


def test_a_budget_reaches_to_the_row_that_it_pays_for_in_full() -> None:
    assert affordable(np.ones(100), 0.29 * 100) == 29
    assert affordable(np.array([2.0, 3.0, 1.0]), 4.9) == 1
    assert affordable(np.array([2.0, 3.0, 1.0]), 6) == 3
    assert affordable(np.zeros(0), 6) == 0
