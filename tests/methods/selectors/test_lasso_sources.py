"""Relevance against the programs' optimality conditions, and budgets that are spent exactly."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.errors import NotFittedError, SpecError
from ray_app.methods.selectors import View
from ray_app.methods.selectors._multitask import head_on, multitask
from ray_app.methods.selectors.lasso_sources import LassoSources


def made(**options: Any) -> LassoSources:
    return LassoSources(**{"target": "t", "fraction": 1.0, **options})


def heads(seed: int, k: int = 4, t: int = 15) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(k, t))
    return source, source[:, :2] @ np.array([0.7, 0.9])


@pytest.mark.parametrize("seed", range(4))
def test_both_exact_programs_make_the_target_each_with_the_smaller_norm_of_its_own(seed: int) -> None:
    source, target = heads(seed)
    l1 = made(norm="l1", lam=0).fit_heads(source, target).relevance
    l2 = made(norm="l2").fit_heads(source, target).relevance
    assert l1 is not None
    assert l2 is not None
    assert source @ l1 == pytest.approx(target, abs=1e-8)
    assert source @ l2 == pytest.approx(target, abs=1e-8)
    assert np.abs(l1).sum() < np.abs(l2).sum()
    assert np.linalg.norm(l2) < np.linalg.norm(l1)
    assert (np.abs(l1) > 1e-9).sum() <= 4
    assert (np.abs(l2) > 1e-9).sum() == 15


@pytest.mark.parametrize("lam", [0.01, 0.3])
def test_lasso_meets_its_optimality_conditions(lam: float) -> None:
    source, target = heads(0)
    nu = made(lam=lam).fit_heads(source, target).relevance
    assert nu is not None
    gradient = source.T @ (source @ nu - target)
    strength = lam * np.abs(source.T @ target).max()
    assert (np.abs(gradient) <= strength * 1.01 + 1e-6).all()
    active = np.abs(nu) > 1e-9
    assert gradient[active] == pytest.approx(-strength * np.sign(nu[active]), rel=0.02)


def test_rows_go_by_the_rule_of_each_norm() -> None:
    source, target = np.eye(3), np.array([4.0, -2.0, 0.0])
    for norm, expected in {"l1": [66, 33, 1], "l2": [79, 20, 1], "uniform": [34, 33, 33]}.items():
        selector = made(norm=norm, lam=0, floor=1)
        assert selector.fit_heads(source, target).allocate(100).tolist() == expected


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    relevance=st.lists(st.floats(-5, 5), min_size=1, max_size=12),
    floor=st.integers(0, 9),
    more=st.integers(0, 500),
    norm=st.sampled_from(["l1", "l2"]),
)
def test_the_budget_is_spent_exactly_and_floors_are_kept(
    relevance: list[float], floor: int, more: int, norm: Any
) -> None:
    selector = made(norm=norm, floor=floor)
    selector.relevance = np.array(relevance)
    budget = floor * len(relevance) + more
    rows = selector.allocate(budget)
    assert rows.sum() == budget
    assert (rows >= floor).all()
    order = np.argsort(np.abs(relevance), kind="stable")
    assert (np.diff(rows[order]) >= -1).all()


def test_no_relevance_at_all_is_drawn_evenly() -> None:
    assert made(floor=0).fit_heads(np.eye(3), np.zeros(3)).allocate(9).tolist() == [3, 3, 3]


def tasks(seed: int, noise: float, n: int = 60) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(12, 3)))[0]
    source = rng.normal(size=(3, 8))
    xs = [rng.normal(size=(n, 12)) for _ in range(8)]
    ys = [x @ basis @ w + noise * rng.normal(size=n) for x, w in zip(xs, source.T, strict=True)]
    return basis, source, xs, ys, rng


def test_the_representation_is_found_up_to_rotation() -> None:
    basis, source, xs, ys, _ = tasks(0, 0.0)
    got, found = multitask(xs, ys, 3, 30)
    assert got.T @ got == pytest.approx(np.eye(3), abs=1e-10)
    assert got @ found == pytest.approx(basis @ source, abs=1e-4)


def test_sharing_beats_each_task_alone() -> None:
    basis, source, xs, ys, _ = tasks(1, 1.0, n=20)
    got, found = multitask(xs, ys, 3, 12)
    alone = np.stack([np.linalg.lstsq(x, y, rcond=None)[0] for x, y in zip(xs, ys, strict=True)], axis=1)
    truth = basis @ source
    assert np.square(got @ found - truth).sum() < 0.6 * np.square(alone - truth).sum()


def test_each_turn_lowers_the_loss() -> None:
    _, _, xs, ys, _ = tasks(2, 0.5)

    def loss(turns: int) -> float:
        got, found = multitask(xs, ys, 3, turns)
        return sum(float(np.square(x @ got @ w - y).sum()) for x, y, w in zip(xs, ys, found.T, strict=True))

    losses = [loss(turns) for turns in (0, 1, 2, 5, 20)]
    assert losses == sorted(losses, reverse=True)


def test_a_target_is_predicted_from_few_rows() -> None:
    basis, source, xs, ys, rng = tasks(3, 0.1, n=200)
    truth = basis @ source[:, 0]
    x = rng.normal(size=(8, 12))
    selector = made(rank=3).fit_rows(xs, ys, x, x @ truth)
    test = rng.normal(size=(50, 12))
    assert selector.predict(test) == pytest.approx(test @ truth, abs=0.2)
    assert selector.relevance is not None
    assert np.abs(selector.relevance).argmax() == 0
    assert selector.basis is not None
    assert head_on(x, x @ truth, selector.basis) == pytest.approx(selector.target_head)


def test_what_is_not_there_yet_or_does_not_fit() -> None:
    with pytest.raises(NotFittedError, match="call fit_heads"):
        made().allocate(10)
    with pytest.raises(NotFittedError, match="call fit_rows"):
        made().fit_heads(np.eye(2), np.ones(2)).predict(np.ones((1, 2)))
    with pytest.raises(ValueError, match="10 rows for 2 sources of at least 12 each"):
        made().fit_heads(np.eye(2), np.ones(2)).allocate(10)
    with pytest.raises(ValueError, match=r"heads are \[2, 2\] and \[3\]"):
        made().fit_heads(np.eye(2), np.ones(3))
    with pytest.raises(ValueError, match="is not finite"):
        made().fit_heads(np.full((2, 2), np.nan), np.ones(2))
    with pytest.raises(ValueError, match="do not make the target's"):
        made(lam=0).fit_heads(np.array([[1.0], [0.0]]), np.array([0.0, 1.0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l3"}, "l1, l2 or uniform, got 'l3'"),
        ({"lam": 1.0}, "below 1, got 1.0"),
        ({"floor": -1}, "floor must be >= 0 rows, got -1"),
        ({"rank": 0}, "rank and turns must be >= 1, got 0 and 12"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], message: str) -> None:
    from ray_app import registry

    with pytest.raises(SpecError, match=message):
        registry.build("selectors", "lasso_sources", {"target": "t", "budget": 5, **options})


def view(seed: int = 0, per: int = 60) -> View:
    """Eight sources of two classes on three of twelve directions; the target is made like sources 0 and 1."""
    basis, source, xs, _, rng = tasks(seed, 0.0, n=per)
    x_target = rng.normal(size=(40, 12))
    target = source[:, :2] @ np.array([0.6, 0.9])
    x = np.concatenate([*xs, x_target])
    value = [x @ basis @ w for x, w in zip(xs, source.T, strict=True)]
    y = np.concatenate([*value, x_target @ basis @ target]) > 0
    names = np.repeat([*(f"s{i}" for i in range(8)), "t"], [*([per] * 8), 40]).astype(object)
    ids = np.array([f"r{i}" for i in range(len(x))], dtype=object)
    return View(row_ids=ids, features=x.astype(np.float32), labels=y.astype(np.int64), texts=names)


def test_a_pool_gives_the_target_whole_and_most_rows_of_what_it_is_made_of() -> None:
    pool = view(2)
    selector = made(budget=200, fraction=None, rank=3, floor=2).fit(pool, np.random.default_rng(0))
    chosen = selector.select(pool, 200, np.random.default_rng(0)).indices
    assert pool.texts is not None
    names, counts = np.unique(pool.texts[chosen].astype(str), return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    assert sum(found.values()) == 200
    assert found["t"] == 40
    assert found["s0"] + found["s1"] > 2.5 * np.mean([found[f"s{i}"] for i in range(2, 8)])
    assert min(found.values()) >= 2


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    costs=st.lists(st.integers(0, 50), min_size=1, max_size=9),
    relevance=st.lists(st.floats(0, 5), min_size=9, max_size=9),
    share=st.floats(0, 1),
    floor=st.integers(0, 20),
)
def test_shares_spend_the_budget_and_never_more_than_there_is(
    costs: list[int], relevance: list[float], share: float, floor: int
) -> None:
    selector = made(floor=floor)
    selector.sources, selector.relevance = [f"s{i}" for i in range(9)], np.array(relevance)
    there = {**{f"s{i}": float(cost) for i, cost in enumerate(costs)}, "t": 7.0}
    budget = float(int(share * sum(there.values())))
    shares = selector.shares(there, budget)
    assert shares["t"] == min(7.0, budget)
    assert all(0 <= shares[name] <= there[name] for name in there)
    assert sum(shares.values()) == pytest.approx(budget)
    again = made(floor=floor).load_state(selector.state())
    assert again.shares(there, budget) == shares


def test_a_target_that_no_row_has_is_named() -> None:
    with pytest.raises(ValueError, match=r"none of 520 labelled rows is of the target 'none'.*sources: s0"):
        made(target="none").fit(view(), np.random.default_rng(0))
