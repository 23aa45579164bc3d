"""Discriminative query: the rows that are most surely not like the labelled ones.

    repeat `rounds` times: fit q(unlabelled | x) on labelled against unlabelled rows, both sides with the same
    total weight; take the next share of the budget by descending q; count those as labelled

Reference: D. Gissin, S. Shalev-Shwartz, "Discriminative Active Learning", 2019,
    https://arxiv.org/abs/1907.06347
Departure: logistic regression on the features in the place of a small network.
Cost: `rounds` fits of n + m rows in d dimensions.
"""

import numpy as np

from ray_app.methods.selectors import Selection, View, affordable, row_hash
from ray_app.methods.selectors._query import BatchQuery, nothing


class QueryDiscriminative(BatchQuery):
    """Looks for what the labelled set lacks, without distances and without the task's model.

    Args:
        rounds: Parts of the batch, after each of which the classifier learns anew.
        C: Inverse strength of the classifier's penalty.
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
        sample: The largest pool to look at; of a larger one, so many rows by hash.
    """

    name = "query_discriminative"
    kind = "data"
    needs = frozenset({"features", "labelled_features"})

    def __init__(
        self,
        *,
        rounds: int = 5,
        C: float = 1.0,
        budget: float = 100,
        weight: str | None = None,
        sample: int = 100_000,
    ) -> None:
        super().__init__(budget=budget, weight=weight, sample=sample)
        if rounds < 1:
            raise ValueError(f"query_discriminative: rounds must be >= 1, got {rounds!r}; try 5")
        if not C > 0:
            raise ValueError(f"query_discriminative: C must be > 0, got {C!r}; try 1.0")
        self.rounds = rounds
        self.C = C

    def select(self, view: View, budget: float, rng: np.random.Generator) -> Selection:
        """Choose rows in sub-batches; rng is not drawn from.

        Raises:
            ValueError: There are no labelled rows to tell the pool from.
        """
        features = np.asarray(view.need("features", self.name), dtype=np.float64)
        labelled = np.asarray(view.need("labelled_features", self.name), dtype=np.float64)
        if not len(labelled):
            raise ValueError("query_discriminative: needs at least one labelled row; begin with query_random")
        if not len(view):
            return nothing()
        costs, tie = view.spending(), row_hash(view.need("row_ids", self.name))
        free = np.ones(len(features), dtype=bool)
        chosen: list[int] = []
        for done in range(1, self.rounds + 1):
            rest = np.flatnonzero(free)
            spent = float(costs[chosen].sum())
            if not len(rest):
                break
            known = np.concatenate([labelled, features[chosen]])
            unlike = _unlike(features[rest], known, self.C)
            order = rest[np.lexsort((tie[rest], -unlike))]
            part = order[: affordable(costs[order], budget * done / self.rounds - spent)]
            chosen += part.tolist()
            free[part] = False
        return Selection(np.array(chosen, dtype=np.int64))


def _unlike(pool: np.ndarray, known: np.ndarray, C: float) -> np.ndarray:
    """How surely each row of the pool is none of the known ones; log odds [n]."""
    # A heavy import, which only this step needs.
    from sklearn.linear_model import LogisticRegression

    x = np.concatenate([known, pool])
    y = np.arange(len(x)) >= len(known)
    model = LogisticRegression(C=C, class_weight="balanced", max_iter=1000).fit(x, y)
    odds: np.ndarray = model.decision_function(pool)
    return odds
