"""Lasso sources: how many rows to draw from each source, by what a target's head is made of.

    y_t = <x, B w_t> + noise,  t = 1..T;   W = [w_1 .. w_T],  w the target's head in the same basis
    l1:      nu = argmin ||nu||_1 s.t. W nu = w;  n_t ~ |nu_t|
             or argmin 1/2 ||W nu - w||^2 + lam max|W^T w| ||nu||_1
    l2:      nu = argmin ||nu||_2 s.t. W nu = w;  n_t ~ nu_t^2
    uniform: nu = 1;                              n_t ~ 1
    n_t = min(max(s n_t, floor), all that t has), with s such that the sum is the budget

At most k sources have nu_t != 0 under l1, k being the width of the heads.

Reference: Y. Wang, Y. Chen, K. Jamieson, S. Du, "Improved Active Multi-Task Representation Learning via
    Lasso", ICML 2023, https://arxiv.org/abs/2306.02556; l2: Y. Chen, K. Jamieson, S. Du, "Active Multi-Task
    Representation Learning", ICML 2022, https://arxiv.org/abs/2202.00911
Departure: sums are the budget exactly, so that floors do not hand one rule more rows than another. Of labels
    in c classes, y is one-hot, and a source's head its c heads one below the other; x and y are centred.
Cost: fit_heads one linear program or Lasso of k rows and T columns; fit_rows O(turns T d^2 k) for each step.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, Self

import numpy as np

from ray_app.errors import NotFittedError
from ray_app.methods.selectors import RowSelector, View, row_hash
from ray_app.methods.selectors._budget import Budget, whole
from ray_app.methods.selectors._multitask import head_on, multitask


class LassoSources(RowSelector):
    """Pre-training data for one task from many sources, when most of them have little to do with it.

    The target's own rows stay, as far as the budget reaches; the sources share the rest, and within a source
    rows are drawn by a hash of `row_id`. It learns from embeddings and labels.

    Args:
        target: The value of `column` that the target's rows have.
        column: The column that says which source a row is of.
        fraction: What may be taken of the cost of the whole pool, in 0..1.
        budget: What may be taken at most, in rows or the unit of `weight`; in place of `fraction`.
        weight: What a row costs: None, one; `chars`, the characters of its text; or a column of numbers.
        norm: Of the relevance: `l1`, few sources; `l2`, all of them; `uniform`, no regard to the target.
        lam: Strength of the Lasso relative to the least that would make all relevance zero, in 0..1; for
            estimated heads; 0: the exact program, for heads that are known.
        floor: Rows that each source gives at least.
        rank: Width of the representation that `fit_rows` learns.
        turns: How often `fit_rows` solves for both sides.
        seed: Of the draw.
    """

    needs = frozenset({"texts", "features", "labels"})

    def __init__(
        self,
        *,
        target: str,
        column: str = "source",
        fraction: float | None = None,
        budget: float | None = None,
        weight: str | None = None,
        norm: Literal["l1", "l2", "uniform"] = "l1",
        lam: float = 0.02,
        floor: int = 12,
        rank: int = 5,
        turns: int = 12,
        seed: int = 0,
    ) -> None:
        if norm not in ("l1", "l2", "uniform"):
            raise ValueError(f"lasso_sources: norm must be l1, l2 or uniform, got {norm!r}")
        if not 0 <= lam < 1:
            raise ValueError(f"lasso_sources: lam must be in 0..1, below 1, got {lam!r}; try 0.02")
        if floor < 0:
            raise ValueError(f"lasso_sources: floor must be >= 0 rows, got {floor!r}; try 12")
        if rank < 1 or turns < 1:
            raise ValueError(f"lasso_sources: rank and turns must be >= 1, got {rank!r} and {turns!r}")
        self.target = target
        self.column = column
        self.weight = weight
        self.seed = seed
        self._budget = Budget("lasso_sources", fraction, budget)
        self.norm = norm
        self.lam = lam
        self.floor = floor
        self.rank = rank
        self.turns = turns
        self.relevance: np.ndarray | None = None
        """float64 [t]: nu."""
        self.basis: np.ndarray | None = None
        """float64 [d, k]: what `fit_rows` learned; heads are in it."""
        self.target_head: np.ndarray | None = None
        """float64 [k]: the target's head."""
        self.sources: list[str] = []
        """Their names, after `fit`."""

    def budget(self, rows: int, total_cost: float) -> float:
        """Return the fraction of the total cost, or the budget."""
        return self._budget.of(total_cost)

    def fit(self, view: View, rng: np.random.Generator) -> Self:
        """Learn the sources' relevance from a sample of rows with embeddings and labels.

        Raises:
            ValueError: No row with a label is the target's.
        """
        names = view.need("texts", "lasso_sources").astype(str)
        x = np.asarray(view.need("features", "lasso_sources"), dtype=np.float64)
        labels = np.asarray(view.need("labels", "lasso_sources"))
        known = np.array([label is not None and label >= 0 for label in labels.tolist()], dtype=bool)
        names, x, labels = names[known], x[known], labels[known].astype(np.int64)
        self.sources = sorted(set(names.tolist()) - {self.target})
        if not (names == self.target).any():
            raise ValueError(
                f"lasso_sources: none of {len(names)} labelled rows is of the target {self.target!r};"
                f" is it a value of {self.column!r}? (sources: {', '.join(self.sources[:5]) or 'none'})"
            )
        if not self.sources:
            self.relevance = np.zeros(0)
            return self
        x = x - x.mean(0)
        y = np.eye(int(labels.max()) + 1)[labels]
        y = (y - y.mean(0)).T
        of = [names == name for name in self.sources]
        # The classes of a source are tasks on the same rows.
        self.basis, heads = multitask(
            [x[rows] for rows in of for _ in y],
            [one[rows] for rows in of for one in y],
            self.rank,
            self.turns,
        )
        own = names == self.target
        head = np.concatenate([head_on(x[own], one[own], self.basis) for one in y])
        return self.fit_heads(heads.T.reshape(len(of), -1).T, head)

    def state(self) -> dict[str, np.ndarray]:
        """Return the relevance of each source, and their names as bytes."""
        if self.relevance is None:
            raise NotFittedError("lasso_sources: nothing learned yet; call fit()")
        names = "\0".join(self.sources).encode()
        return {"relevance": self.relevance, "sources": np.frombuffer(names, dtype=np.uint8)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> Self:
        """Take what another learned."""
        self.relevance = np.asarray(state["relevance"], dtype=np.float64)
        names = bytes(np.asarray(state["sources"], dtype=np.uint8)).decode()
        self.sources = names.split("\0") if names else []
        return self

    def key(self, view: View) -> np.ndarray:
        """Return a number in 0..1 by chance."""
        for name in ("features", "labels"):
            view.need(name, "lasso_sources")
        return row_hash(view.need("row_ids", "lasso_sources"), self.seed).astype(np.float64) / 2.0**64

    def group(self, view: View) -> np.ndarray:
        """Return each row's source."""
        names = view.need("texts", "lasso_sources")
        groups = np.empty(len(names), dtype=object)
        groups[:] = [str(name) for name in names.tolist()]
        return groups

    def shares(self, costs: Mapping[Hashable, float], budget: float) -> Mapping[Hashable, float]:
        """Return what each source may take; the target is served first."""
        if self.relevance is None:
            raise NotFittedError("lasso_sources: nothing learned yet; call fit()")
        first: dict[Hashable, float] = {
            name: min(cost, budget) for name, cost in costs.items() if name == self.target
        }
        names = sorted((name for name in costs if name not in first), key=str)
        total = np.array([costs[name] for name in names], dtype=np.float64)
        left = min(budget - sum(first.values()), float(total.sum()))
        # A source that the sample did not show is known to be relevant for nothing.
        wishes = dict(zip(self.sources, self._wish(), strict=True))
        wish = np.array([wishes.get(str(name), 0.0) for name in names])
        exact = _filled(wish, total, left, self.floor)
        return {**first, **dict(zip(names, whole(exact, total, left).tolist(), strict=True))}

    def fit_heads(self, source_heads: np.ndarray, target_head: np.ndarray) -> Self:
        """Learn the sources' relevance from heads in one basis.

        Args:
            source_heads: [k, t], a column for each source.
            target_head: [k].

        Raises:
            ValueError: Shapes do not fit, or numbers are not finite.
        """
        heads = np.asarray(source_heads, dtype=np.float64)
        target = np.asarray(target_head, dtype=np.float64)
        if heads.ndim != 2 or target.shape != heads.shape[:1] or not heads.shape[1]:
            raise ValueError(
                f"lasso_sources: heads are {list(heads.shape)} and {list(target.shape)};"
                " expected [k, t] and [k]"
            )
        if not (np.isfinite(heads).all() and np.isfinite(target).all()):
            raise ValueError("lasso_sources: a head is not finite; drop its source, or fit it on more rows")
        self.target_head = target
        if self.norm == "uniform":
            self.relevance = np.ones(heads.shape[1])
        elif self.norm == "l2":
            self.relevance = np.linalg.pinv(heads) @ target
        else:
            self.relevance = _exact(heads, target) if self.lam == 0 else _lasso(heads, target, self.lam)
        return self

    def fit_rows(
        self, xs: Sequence[np.ndarray], ys: Sequence[np.ndarray], target_x: np.ndarray, target_y: np.ndarray
    ) -> Self:
        """Learn a shared representation from the sources' rows, the target's head on it, then the relevance.

        Args:
            xs: Inputs [n_t, d] of each source.
            ys: Values [n_t].
            target_x: The target's few inputs [n, d].
            target_y: Their values [n].
        """
        self.basis, heads = multitask(xs, ys, self.rank, self.turns)
        return self.fit_heads(heads, head_on(target_x, target_y, self.basis))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the target's value float64 [n] for inputs [n, d], after fit_rows.

        Raises:
            NotFittedError: There is no representation yet.
        """
        if self.basis is None or self.target_head is None:
            raise NotFittedError("lasso_sources: no representation yet; call fit_rows()")
        return x @ self.basis @ self.target_head

    def allocate(self, budget: int) -> np.ndarray:
        """Return int64 [t]: rows to draw from each source; they sum to the budget.

        Raises:
            NotFittedError: Nothing learned yet.
            ValueError: The budget does not reach for the floors.
        """
        if self.relevance is None:
            raise NotFittedError("lasso_sources: nothing learned yet; call fit_heads() or fit_rows()")
        count = len(self.relevance)
        if budget < count * self.floor:
            raise ValueError(
                f"lasso_sources: {budget} rows for {count} sources of at least {self.floor} each; "
                "raise the budget or lower floor"
            )
        return _apportioned(self._wish(), budget, self.floor)

    def _wish(self) -> np.ndarray:
        """Float64 [t]: rows of the sources stand in this proportion."""
        relevance = np.zeros(0) if self.relevance is None else self.relevance
        wish = np.square(relevance) if self.norm == "l2" else np.abs(relevance)
        return wish if wish.sum() > 0 else np.ones_like(wish)


def _exact(heads: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The relevance of least l1 norm that makes the target, as a linear program in nu = a - b; a, b >= 0."""
    # Heavy, and only this norm needs it.
    from scipy.optimize import linprog

    count = heads.shape[1]
    found = linprog(np.ones(2 * count), A_eq=np.hstack([heads, -heads]), b_eq=target, method="highs")
    if not found.success:
        raise ValueError(
            f"lasso_sources: the sources' heads do not make the target's ({found.message}); give lam > 0"
        )
    return np.asarray(found.x[:count] - found.x[count:])


def _lasso(heads: np.ndarray, target: np.ndarray, lam: float) -> np.ndarray:
    from sklearn.linear_model import Lasso

    zero = np.abs(heads.T @ target).max()
    if zero == 0:
        return np.zeros(heads.shape[1])
    # scikit-learn divides the squares by the number of rows, which is k here.
    model = Lasso(alpha=lam * zero / len(heads), fit_intercept=False, max_iter=50_000, tol=1e-6)
    return np.asarray(model.fit(heads, target).coef_, dtype=np.float64)


def _apportioned(wish: np.ndarray, budget: int, floor: int) -> np.ndarray:
    """Whole numbers in proportion to wishes, none below the floor, that sum to the budget."""
    low = np.zeros(len(wish), dtype=bool)
    exact = np.full(len(wish), float(floor))
    while not low.all() and wish[~low].sum() > 0:
        exact[~low] = wish[~low] * (budget - floor * low.sum()) / wish[~low].sum()
        below = ~low & (exact < floor)
        if not below.any():
            break
        low |= below
        exact[below] = floor
    whole = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - whole), kind="stable")
    whole[order[: budget - int(whole.sum())]] += 1
    return whole


def _filled(wish: np.ndarray, total: np.ndarray, budget: float, floor: float) -> np.ndarray:
    """Shares in proportion to wishes, between a floor and what there is; together the budget.

    Args:
        wish: [g] >= 0.
        total: [g]: what each has.
        budget: At most the sum of `total`.
        floor: Lowered where the budget does not reach for it.
    """
    share = np.minimum(total, min(floor, budget / max(1, len(total))))
    left = budget - share.sum()
    # What cannot be taken where it is wished for goes to the other wishes, and at last to whatever is there.
    for wished in (wish, total):
        open_ = (wished > 0) & (share < total)
        while left > 1e-9 * max(1.0, budget) and open_.any():
            more = np.zeros_like(share)
            more[open_] = left * wished[open_] / wished[open_].sum()
            more = np.minimum(more, total - share)
            share, left = share + more, left - more.sum()
            open_ &= share < total * (1 - 1e-12)
    return share
