"""The contract of selectors."""

from collections.abc import Callable

import numpy as np

from ray_app.errors import NotFittedError
from ray_app.methods.selectors import (
    FIELDS,
    DuplicateSelector,
    Fitted,
    RowSelector,
    Selection,
    Selector,
    View,
    row_hash,
)
from ray_app.testing._expect import expect, expect_raises, permuted, untouched


def check_selector(make: Callable[[], Selector], view: View) -> None:
    """Check everything that selectors promise.

    Args:
        make: Returns a fresh selector.
        view: A pool that it can choose from, of at least eight rows, with `row_ids`.

    Raises:
        AssertionError: With a sentence about what does not hold.
    """
    selector = make()
    n = len(view)
    expect(selector.needs <= set(FIELDS), f"needs must name fields of a view, got {sorted(selector.needs)}")
    expect(all(isinstance(name, str) for name in selector.columns), "columns must be names")
    for option in (selector.by, selector.column):
        expect(option is None or option in selector.columns, "columns must hold what options name")
    if isinstance(selector, Fitted):
        check_fitted(make, view)
    selector = _ready(make, view)
    total = float(view.spending().sum())
    budget = selector.budget(n, total)
    expect(0 <= budget <= total + 1e-6, f"the budget must be in 0..{total:g}, got {budget}")
    with untouched(vars(view)):
        chosen = _indices(selector.select(view, budget, np.random.default_rng(1)), n)
    spent = float(view.spending()[chosen].sum())
    expect(spent <= budget + 1e-6, f"no more than the budget may be spent: {spent} of {budget}")
    again = _indices(_ready(make, view).select(view, budget, np.random.default_rng(1)), n)
    expect(np.array_equal(again, chosen), "the same generator state must give the same rows")
    nothing = selector.select(view.take(slice(0, 0)), 0.0, np.random.default_rng(1))
    expect(len(nothing.indices) == 0, "no rows must give no rows")
    for name in selector.needs:
        lacking = View(**{**vars(view), name: None})
        expect_raises(
            ValueError,
            lambda lacking=lacking: selector.select(lacking, budget, np.random.default_rng(1)),  # type: ignore[misc]  # its type is the default's
            f"a view without {name} must raise ValueError",
        )
    if isinstance(selector, RowSelector):
        check_rows(selector, view, budget)
    if isinstance(selector, DuplicateSelector):
        check_duplicates(selector, view)


def check_rows(selector: RowSelector, view: View, budget: float) -> None:
    """Check that rows are judged one by one, and that order does not matter."""
    n = len(view)
    key = selector.key(view)
    expect(key.shape == (n,) and key.dtype == np.float64, f"key must return float64 [{n}]")
    parts = [selector.key(view.take(slice(row, row + 1))) for row in range(n)]
    expect(
        np.allclose(np.concatenate(parts), key, equal_nan=True, atol=1e-6),
        "a row's key must not depend on others",
    )
    admitted = selector.admits(np.append(key, np.nan))
    expect(admitted.dtype == bool and not admitted[-1], "a key that is NaN must never be admitted")
    order = permuted(n).numpy()
    chosen = selector.select(view, budget, np.random.default_rng(1)).indices
    shuffled = selector.select(view.take(order), budget, np.random.default_rng(2)).indices
    expect(np.array_equal(order[shuffled], chosen), "neither the order of rows nor rng may matter")
    expect(len(selector.select(view, 0.0, np.random.default_rng(1)).indices) == 0, "no budget, no rows")
    groups = selector.group(view)
    if groups is not None:
        expect(groups.shape == (n,), f"group must return [{n}]")
        ready = selector.admits(key)
        names = dict.fromkeys(groups[ready].tolist())
        costs = {name: float(view.spending()[ready & (groups == name)].sum()) for name in names}
        shares = selector.shares(costs, budget)
        expect(shares.keys() == costs.keys(), "each group must have a share")
        expect(sum(shares.values()) <= budget + 1e-6, "shares must not exceed the budget")


def check_duplicates(selector: DuplicateSelector, view: View) -> None:
    """Check that signatures are each row's own, and that of what is alike exactly one stays."""
    n = len(view)
    signature = selector.signature(view)
    expect(signature.ndim == 2 and len(signature) == n, f"signature must return [{n}, s]")
    parts = [selector.signature(view.take(slice(row, row + 1))) for row in range(n)]
    expect(
        np.allclose(np.concatenate(parts), signature, atol=1e-6),
        "a row's signature must not depend on others",
    )
    keys = selector.keys(signature)
    expect(keys.dtype == np.uint64 and keys.ndim == 2 and len(keys) == n, f"keys must be uint64 [{n}, b]")
    rng = np.random.default_rng(1)
    budget = selector.budget(n, float(n))
    kept = selector.select(view, budget, rng).indices
    order = permuted(n).numpy()
    shuffled = selector.select(view.take(order), budget, rng).indices
    expect(set(order[shuffled].tolist()) == set(kept.tolist()), "the order of rows must not matter")
    again = selector.select(view.take(kept), budget, rng).indices
    expect(len(again) == len(kept), "what stays must have no duplicates")
    twice = np.concatenate([np.arange(n), np.arange(n)])
    names = np.array([f"{name}/{copy}" for copy in range(2) for name in range(n)], dtype=object)
    doubled = View(**{**vars(view.take(twice)), "row_ids": names})
    once = selector.select(doubled, budget, rng).indices
    expect(len(once) == len(kept), "copies of all rows must go")
    if selector.by is None:
        tie = row_hash(names)
        expect(
            all(tie[row] <= tie[(row + n) % (2 * n)] for row in once),
            "without scores, the smallest hash stays",
        )


def check_fitted(make: Callable[[], Selector], view: View) -> None:
    """Check what a selector learns: not before fit, all of it in its state."""
    selector = make()
    if not isinstance(selector, Fitted):
        raise AssertionError("it must have fit, state and load_state")
    expect_raises(NotFittedError, selector.state, "an unfitted selector must raise NotFittedError")
    expect(selector.fit(view, np.random.default_rng(0)) is selector, "fit must return the selector")
    state = selector.state()
    expect(all(isinstance(value, np.ndarray) for value in state.values()), "a state must be NumPy arrays")
    twin = make()
    if isinstance(twin, Fitted):
        twin.load_state(_through_safetensors(state))
    ours, theirs = (
        each.select(view, each.budget(len(view), float(view.spending().sum())), np.random.default_rng(1))
        for each in (_ready(make, view), twin)
    )
    expect(np.array_equal(ours.indices, theirs.indices), "a state through safetensors must choose the same")


def _ready(make: Callable[[], Selector], view: View) -> Selector:
    selector = make()
    if isinstance(selector, Fitted):
        selector.fit(view, np.random.default_rng(0))
    return selector


def _through_safetensors(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from safetensors.numpy import load, save

    return load(save({name: np.ascontiguousarray(value) for name, value in state.items()}))


def _indices(selection: Selection, n: int) -> np.ndarray:
    chosen = selection.indices
    expect(chosen.dtype == np.int64 and chosen.ndim == 1, "indices must be int64 [m]")
    expect(len(np.unique(chosen)) == len(chosen), "no row may be chosen twice")
    expect(not len(chosen) or 0 <= chosen.min() <= chosen.max() < n, f"indices must be in 0..{n - 1}")
    for name, values in (("weights", selection.weights), ("labels", selection.labels)):
        expect(values is None or len(values) == len(chosen), f"there must be as many {name} as indices")
    return chosen
