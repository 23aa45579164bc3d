"""Query strategies against what their formulas give by hand, and slow loops."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from ray_app import registry
from ray_app.errors import NotFittedError, SpecError
from ray_app.methods.selectors import RowSelector, Selector, View
from tests.methods.selectors.pool import pool

NAMES = [name for name in registry.names("selectors") if name.startswith("query_")]


def build(name: str, **options: Any) -> Any:
    return registry.build("selectors", name, options)


def of(proba: list[list[float]], **more: Any) -> View:
    return View(
        row_ids=np.array([f"r{i}" for i in range(len(proba))], dtype=object), proba=np.array(proba), **more
    )


def ranking(selector: Selector, view: View) -> list[int]:
    rows: list[int] = selector.select(view, len(view), np.random.default_rng(0)).indices.tolist()
    return rows


# Sure; three-way doubt; a close pair; one class gone.
PROBA = [[0.9, 0.05, 0.05], [0.4, 0.3, 0.3], [0.48, 0.47, 0.05], [0.0, 0.55, 0.45]]


@pytest.mark.parametrize(
    ("name", "keys", "order"),
    [
        ("query_least_confidence", [0.1, 0.6, 0.52, 0.45], [1, 2, 3, 0]),
        ("query_margin", [-0.85, -0.1, -0.01, -0.1], [2]),
        ("query_entropy", [0.394398, 1.088900, 0.856952, 0.688139], [1, 2, 3, 0]),
    ],
)
def test_uncertainty_is_as_computed_by_hand(name: str, keys: list[float], order: list[int]) -> None:
    selector = build(name)
    assert selector.key(of(PROBA)) == pytest.approx(keys, abs=1e-6)
    assert ranking(selector, of(PROBA))[: len(order)] == order


def test_one_class_alone_is_no_doubt() -> None:
    view = of([[1.0], [1.0]])
    for name in ("query_least_confidence", "query_margin", "query_entropy"):
        assert build(name).key(view).tolist() == [0, 0]


MEMBERS = np.array(
    [
        [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.6, 0.3, 0.1]],
        [[0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.5, 0.3]],
    ]
)


def test_committee_and_bald_against_scipy() -> None:
    view = View(row_ids=np.array(["a", "b", "c"], dtype=object), proba_mc=MEMBERS)
    mean = MEMBERS.mean(0)
    divergence = [np.mean([scipy_entropy(member[row], mean[row]) for member in MEMBERS]) for row in range(3)]
    assert build("query_committee").key(view) == pytest.approx(divergence)
    assert divergence[0] == pytest.approx(np.log(2))
    # The same number by another way: entropy of the mean less the mean of entropies.
    assert build("query_bald").key(view) == pytest.approx(divergence)
    votes = build("query_committee", measure="vote").key(view)
    assert votes == pytest.approx([np.log(2), 0, np.log(2)])


def test_expected_gradient_length_against_gradients_written_out() -> None:
    view = pool()
    assert view.proba is not None
    assert view.features is not None
    expected = []
    for p, h in zip(view.proba, view.features.astype(float), strict=True):
        lengths = [np.linalg.norm(np.outer(p - np.eye(3)[y], h)) for y in range(3)]
        expected.append(p @ np.array(lengths))
    assert build("query_egl").key(view) == pytest.approx(np.array(expected))
    length = np.linalg.norm(view.features.astype(float), axis=1)
    assert build("query_egl", normalize=True).key(view) == pytest.approx(np.array(expected) / length)


def test_density_is_the_mean_cosine_to_the_pool() -> None:
    view = pool()
    assert view.proba is not None
    assert view.features is not None
    unit = view.features / np.linalg.norm(view.features, axis=1, keepdims=True)
    cosine = (unit @ unit.T).mean(1)
    plain = build("query_density").fit(view, np.random.default_rng(0))
    assert plain.key(view) == pytest.approx((1 + cosine) / 2, abs=1e-5)
    both = build("query_density", beta=2.0).fit(view, np.random.default_rng(0))
    doubt = np.array([scipy_entropy(p) for p in view.proba]) / np.log(3)
    assert both.key(view) == pytest.approx((1 + cosine) / 2 * doubt**2, abs=1e-5)
    with pytest.raises(NotFittedError, match="call fit"):
        build("query_density").key(view)


def test_contrastive_is_the_loss_of_the_neighbours_labels() -> None:
    view = pool()
    assert view.proba is not None
    assert view.features is not None
    assert view.labelled_features is not None
    assert view.labelled_labels is not None
    expected = []
    for x, p in zip(view.features, view.proba, strict=True):
        near = np.argsort(np.linalg.norm(view.labelled_features - x, axis=1))[:4]
        expected.append(-np.log(p[view.labelled_labels[near]]).mean())
    assert build("query_contrastive", k=4).key(view) == pytest.approx(np.array(expected))
    assert np.isfinite(build("query_contrastive", k=99).key(replace(view, proba=np.eye(3)[[0] * 40]))).all()


def test_discriminative_query_leaves_what_is_labelled_alone() -> None:
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(size=(60, 4)) - 3, rng.normal(size=(20, 4)) + 3
    view = View(
        row_ids=np.array([f"r{i}" for i in range(80)], dtype=object),
        features=np.concatenate([known, unknown]).astype(np.float32),
        labelled_features=(rng.normal(size=(30, 4)) - 3).astype(np.float32),
    )
    chosen = build("query_discriminative", budget=10, rounds=1).select(view, 10, rng).indices
    assert set(chosen.tolist()) <= set(range(60, 80))
    empty = replace(view, labelled_features=np.zeros((0, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="at least one labelled row"):
        build("query_discriminative").select(empty, 5, rng)


def test_discriminative_query_spreads_once_it_learns_anew() -> None:
    # Two groups are unknown; the first part of the batch makes the farther one known.
    rng = np.random.default_rng(1)
    near, far = np.array([4.0, 0, 0, 0]), np.array([0, 8.0, 0, 0])
    features = np.concatenate([near + 0.1 * rng.normal(size=(20, 4)), far + 0.1 * rng.normal(size=(20, 4))])
    view = View(
        row_ids=np.array([f"r{i}" for i in range(40)], dtype=object),
        features=features.astype(np.float32),
        labelled_features=(0.1 * rng.normal(size=(30, 4))).astype(np.float32),
    )
    at_once = build("query_discriminative", rounds=1).select(view, 10, rng).indices
    in_parts = build("query_discriminative", rounds=5).select(view, 10, rng).indices
    assert len({row // 20 for row in at_once.tolist()}) == 1
    assert len({row // 20 for row in in_parts.tolist()}) == 2


def test_badge_draws_by_distances_of_gradients_written_out() -> None:
    view = pool(12)
    assert view.proba is not None
    assert view.features is not None
    gradients = np.array(
        [
            np.outer(p - np.eye(3)[p.argmax()], h).ravel()
            for p, h in zip(view.proba, view.features.astype(float), strict=True)
        ]
    )
    rng = np.random.default_rng(5)
    chosen = [int(np.linalg.norm(gradients, axis=1).argmax())]
    while len(chosen) < 6:
        nearest = np.min([np.square(gradients - gradients[c]).sum(1) for c in chosen], axis=0)
        nearest[chosen] = 0
        chosen.append(int(rng.choice(12, p=nearest / nearest.sum())))
    got = build("query_badge").select(view, 6, np.random.default_rng(5)).indices
    assert got.tolist() == chosen


def test_badge_takes_copies_where_nothing_else_is_left() -> None:
    view = of([[0.5, 0.5]] * 4, features=np.ones((4, 2), dtype=np.float32))
    got = build("query_badge").select(view, 4, np.random.default_rng(0)).indices
    assert sorted(got.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_returns_so_many_rows_and_its_place_in_the_taxonomy(name: str) -> None:
    view, selector = pool(), build(name, budget=7)
    assert selector.kind in ("data", "model", "prediction", "ensemble")
    assert selector.batch_mode == (not isinstance(selector, RowSelector))
    if hasattr(selector, "fit"):
        selector.fit(view, np.random.default_rng(0))
    one, other = (
        selector.select(view, selector.budget(40, 40.0), np.random.default_rng(3)).indices for _ in range(2)
    )
    assert len(set(one.tolist())) == 7
    assert one.tolist() == other.tolist()


def test_every_class_of_the_taxonomy_is_there() -> None:
    kinds = {registry.load("selectors", name).kind for name in NAMES}
    assert kinds == {"data", "model", "prediction", "ensemble"}
    assert len(NAMES) == 12


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("query_margin", {"budget": -1}, "budget must be >= 0, got -1"),
        ("query_committee", {"measure": "sum"}, "kl or vote, got 'sum'"),
        ("query_density", {"beta": -1.0}, "beta must be >= 0, got -1.0"),
        ("query_discriminative", {"rounds": 0}, "rounds must be >= 1, got 0"),
        ("query_discriminative", {"C": 0.0}, "C must be > 0, got 0.0"),
        ("query_contrastive", {"k": 0}, "k must be >= 1, got 0"),
        ("query_badge", {"sample": 0}, "sample must be >= 1 rows, got 0"),
    ],
)
def test_wrong_options_are_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(name, **options)
