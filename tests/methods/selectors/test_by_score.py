"""Selectors by score against sorting and counting by hand: top_fraction, threshold, stratified."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.selectors import RowSelector, View, row_hash


def build(name: str, **options: Any) -> RowSelector:
    made: RowSelector = registry.build("selectors", name, options)
    return made


def view(score: list[float], strata: list[Any] | None = None) -> View:
    texts = None if strata is None else np.array(strata, dtype=object)
    ids = np.array([f"r{i}" for i in range(len(score))], dtype=object)
    return View(row_ids=ids, score=np.array(score), texts=texts)


def chosen(selector: RowSelector, pool: View) -> list[int]:
    budget = selector.budget(len(pool), float(pool.spending().sum()))
    found: list[int] = selector.select(pool, budget, np.random.default_rng(0)).indices.tolist()
    return found


SCORES = [0.3, np.nan, 0.9, 0.1, 0.5]


def test_top_fraction_takes_from_either_end_and_never_a_nan() -> None:
    assert chosen(build("top_fraction", by="s", fraction=0.4), view(SCORES)) == [2, 4]
    assert chosen(build("top_fraction", by="s", fraction=0.4, order="ascending"), view(SCORES)) == [3, 0]
    assert chosen(build("top_fraction", by="s", fraction=1), view(SCORES)) == [2, 4, 0, 3]
    assert chosen(build("top_fraction", by="s", budget=3), view(SCORES)) == [2, 4, 0]


def test_a_budget_in_characters_ends_before_the_row_that_is_too_long() -> None:
    pool = replace(view([4, 3, 2, 1]), costs=np.array([5.0, 4.0, 20.0, 1.0]))
    selector = build("top_fraction", by="s", budget=12, weight="chars")
    assert selector.columns == ("s", "text")
    assert chosen(selector, pool) == [0, 1]


def test_ties_go_by_the_hash_of_the_name() -> None:
    pool = view([1.0] * 50)
    assert pool.row_ids is not None
    expected = np.argsort(row_hash(pool.row_ids))[:5].tolist()
    assert chosen(build("top_fraction", by="s", budget=5), pool) == expected


def test_threshold_includes_its_bounds() -> None:
    assert chosen(build("threshold", by="s", at_least=0.3), view(SCORES)) == [2, 4, 0]
    assert chosen(build("threshold", by="s", at_most=0.3), view(SCORES)) == [0, 3]
    assert chosen(build("threshold", by="s", at_least=0.2, at_most=0.5), view(SCORES)) == [4, 0]


STRATA = ["a"] * 60 + ["b"] * 30 + ["c"] * 8 + [None] * 2


def counts(**options: Any) -> dict[Any, int]:
    pool = view(list(np.random.default_rng(0).random(100)), STRATA)
    rows = chosen(build("stratified", **options), pool)
    return {name: sum(STRATA[row] == name for row in rows) for name in ("a", "b", "c", None)}


def test_shares_are_proportional_or_equal_as_far_as_strata_reach() -> None:
    assert counts(fraction=0.5) == {"a": 30, "b": 15, "c": 4, None: 1}
    assert counts(budget=50, shares="equal") == {"a": 20, "b": 20, "c": 8, None: 2}
    assert counts(budget=30, shares="equal") == {"a": 10, "b": 10, "c": 8, None: 2}
    assert counts(budget=1000) == {"a": 60, "b": 30, "c": 8, None: 2}
    assert sum(counts(budget=7).values()) == 7
    assert sum(counts(budget=13, shares="equal").values()) == 13


def test_within_a_stratum_the_best_are_taken() -> None:
    rng = np.random.default_rng(1)
    pool = view(list(rng.random(100)), STRATA)
    assert pool.score is not None
    rows = chosen(build("stratified", budget=40, by="s"), pool)
    for name in ("a", "b", "c"):
        of_stratum = np.flatnonzero([stratum == name for stratum in STRATA])
        taken = [row for row in rows if STRATA[row] == name]
        best = of_stratum[np.argsort(-pool.score[of_stratum])][: len(taken)]
        assert set(taken) == set(best.tolist())


def test_another_seed_draws_other_rows() -> None:
    pool = view(list(np.zeros(100)), STRATA)
    one, other = (set(chosen(build("stratified", budget=20, seed=seed), pool)) for seed in (0, 1))
    assert one != other


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("top_fraction", {"by": "s"}, "give exactly one"),
        ("top_fraction", {"by": "s", "fraction": 1.5}, "fraction must be in 0..1, got 1.5"),
        ("top_fraction", {"by": "s", "fraction": 0.5, "order": "up"}, "descending or ascending, got 'up'"),
        ("threshold", {"by": "s"}, "give at_least, at_most or both"),
        ("threshold", {"by": "s", "at_least": 2, "at_most": 1}, "at_least=2 is above at_most=1"),
        ("stratified", {"budget": 5, "shares": "some"}, "equal or proportional, got 'some'"),
        ("stratified", {"budget": -1}, "budget must be >= 0, got -1"),
    ],
)
def test_wrong_options_are_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(name, **options)
