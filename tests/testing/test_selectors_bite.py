"""The selectors' suite notices what does not hold."""

from collections.abc import Callable

import numpy as np
import pytest

from ray_app.methods.selectors import Selection, Selector, View
from ray_app.methods.selectors.exact_duplicates import ExactDuplicates
from ray_app.methods.selectors.query_density import QueryDensity
from ray_app.methods.selectors.top_fraction import TopFraction
from ray_app.testing.selectors import check_selector
from tests.methods.selectors.pool import pool


class Spendthrift(TopFraction):
    def select(self, view: View, budget: float, rng: np.random.Generator) -> Selection:
        return super().select(view, 2 * budget, rng)


class Comparing(TopFraction):
    def key(self, view: View) -> np.ndarray:
        key = super().key(view)
        return key - np.nan_to_num(key).max(initial=0)


class InOrder(TopFraction):
    def key(self, view: View) -> np.ndarray:
        return np.where(np.isnan(super().key(view)), np.nan, 1.0) - 1e-3 * np.arange(len(view))


class Blind(ExactDuplicates):
    def alike(self, signature: np.ndarray) -> np.ndarray:
        return np.zeros((0, 2), dtype=np.int64)


class Forgetful(QueryDensity):
    def state(self) -> dict[str, np.ndarray]:
        return {"mean": np.zeros_like(super().state()["mean"])}


class Undemanding(TopFraction):
    needs = frozenset({"score", "features"})


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Spendthrift(by="s", fraction=0.3), "no more than the budget"),
        (lambda: Comparing(by="s", fraction=0.3), "key must not depend on others"),
        (lambda: InOrder(by="s", fraction=0.3), "key must not depend on others"),
        (Blind, "copies of all rows must go"),
        (Forgetful, "state through safetensors"),
        (lambda: Undemanding(by="s", fraction=0.3), "a view without features must raise"),
    ],
)
def test_a_broken_selector_is_noticed(make: Callable[[], Selector], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_selector(make, pool())
