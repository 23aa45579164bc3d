"""What query strategies share: which rows of a pool a person should label next."""

from typing import ClassVar, Literal

import numpy as np

from ray_app.methods.selectors import RowSelector, Selection, Selector, View, affordable, row_hash
from ray_app.methods.selectors._budget import Budget

_LEAST_PROBABILITY = 1e-12


class _Asked(Selector):
    """What both kinds of queries have: a number of rows, and a place in the survey's taxonomy.

    Args:
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
    """

    kind: ClassVar[Literal["data", "model", "prediction", "ensemble"]]
    """What the strategy looks at."""
    batch_mode: ClassVar[bool]
    """Whether the rows of one batch are chosen with regard to one another."""
    name: ClassVar[str]

    def __init__(self, *, budget: float = 100, weight: str | None = None) -> None:
        self._budget = Budget(self.name, None, budget)
        self.weight = weight

    def budget(self, rows: int, total_cost: float) -> float:
        """Return the option `budget`, or the cost of everything where that is less."""
        return self._budget.of(total_cost)


class RowQuery(_Asked, RowSelector):
    """Judges each row of the pool by itself."""

    batch_mode = False


class BatchQuery(_Asked):
    """Needs the pool in one process.

    Args:
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
        sample: The largest pool to look at; of a larger one, so many rows by hash.
    """

    batch_mode = True

    def __init__(self, *, budget: float = 100, weight: str | None = None, sample: int = 100_000) -> None:
        super().__init__(budget=budget, weight=weight)
        if sample < 1:
            raise ValueError(f"{self.name}: sample must be >= 1 rows, got {sample!r}; try 100000")
        self.most_rows = sample


def proba_of(view: View, who: str) -> np.ndarray:
    """Return float64 [n, c].

    Raises:
        ValueError: Nobody gave probabilities.
    """
    return np.asarray(view.need("proba", who), dtype=np.float64)


def committee_of(view: View, who: str) -> np.ndarray:
    """Return float64 [k, n, c]: probabilities of k members, or of k passes with dropout.

    Raises:
        ValueError: Nobody gave them.
    """
    return np.asarray(view.need("proba_mc", who), dtype=np.float64)


def entropy(proba: np.ndarray) -> np.ndarray:
    """Return the entropy in nats along the last axis; 0 log 0 = 0."""
    return -(proba * np.log(np.maximum(proba, _LEAST_PROBABILITY))).sum(-1)


def ranked(key: np.ndarray, view: View, costs: np.ndarray, budget: float, who: str) -> np.ndarray:
    """Return int64 [m]: rows by descending key, ties by hash, as far as the budget reaches."""
    order = np.lexsort((row_hash(view.need("row_ids", who)), -key))
    order = order[np.isfinite(key[order])]
    return order[: affordable(costs[order], budget)].astype(np.int64)


def nothing() -> Selection:
    """Return an empty choice."""
    return Selection(np.zeros(0, dtype=np.int64))
