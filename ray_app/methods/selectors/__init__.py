"""Selectors choose rows, or whole sources, within a budget.

Three kinds differ in what of the pool they must see at once, which is what lets an engine stream it:
`RowSelector` judges each row by itself, `DuplicateSelector` compares rows that share a key, and any other
`Selector` needs the pool, or a sample of it, in one process.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

# Of a budget: what sums of floats may miss.
_SLACK = 1e-9


@dataclass(frozen=True)
class Selection:
    """What a selector chose."""

    indices: np.ndarray
    """int64 [m]: chosen rows, the most wanted first."""
    weights: np.ndarray | None = None
    """float64 [m]: `sample_weight` of each, where the method gives one."""
    labels: np.ndarray | None = None
    """int64 [m]: pseudo-labels, where the method gives them."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What a report may show: queries asked, thresholds used."""


@dataclass(frozen=True)
class View:
    """What a selector may look at of a pool of n rows; None where nobody gave it."""

    row_ids: np.ndarray | None = None
    """object [n]: names, all different, which every pool has; ties are broken by their hash."""
    score: np.ndarray | None = None
    """float64 [n]: of the column that the selector's `by` names."""
    features: np.ndarray | None = None
    """float32 [n, d]."""
    proba: np.ndarray | None = None
    """[n, c]: class probabilities."""
    proba_mc: np.ndarray | None = None
    """[k, n, c]: the same from k passes with dropout, or from k members of a committee."""
    labels: np.ndarray | None = None
    """int64 [n]."""
    texts: np.ndarray | None = None
    """object [n]: of the column that the selector's `column` names; any values, mostly text."""
    content: np.ndarray | None = None
    """uint64 [n, 2]: a hash of what the row holds."""
    costs: np.ndarray | None = None
    """float64 [n]: what each row takes of the budget; None: one each."""
    labelled_features: np.ndarray | None = None
    """float32 [m, d]: of rows outside of the pool whose labels are known."""
    labelled_labels: np.ndarray | None = None
    """int64 [m]."""

    def __len__(self) -> int:
        for name in ("row_ids", "score", "features", "proba", "labels", "texts", "content", "costs"):
            if (values := getattr(self, name)) is not None:
                return len(values)
        return 0 if self.proba_mc is None else self.proba_mc.shape[1]

    def take(self, rows: np.ndarray | slice) -> "View":
        """Return the view of these rows; what is known of labelled rows stays."""
        of_pool = {
            name: values[:, rows] if name == "proba_mc" else values[rows]
            for name in FIELDS
            if not name.startswith("labelled") and (values := getattr(self, name)) is not None
        }
        return replace(self, **of_pool)

    def need(self, name: str, who: str) -> np.ndarray:
        """Return a field.

        Raises:
            ValueError: Nobody gave it.
        """
        values: np.ndarray | None = getattr(self, name)
        if values is None:
            given = ", ".join(each for each in FIELDS if getattr(self, each) is not None)
            raise ValueError(f"{who}: needs {name} of the rows, which nobody gave (given: {given or 'none'})")
        return values

    def spending(self) -> np.ndarray:
        """Return float64 [n]: what each row costs.

        Raises:
            ValueError: A cost is negative or no number.
        """
        if self.costs is None:
            return np.ones(len(self))
        costs = np.asarray(self.costs, dtype=np.float64)
        if not bool((np.isfinite(costs) & (costs >= 0)).all()):
            row = int(np.flatnonzero(~(np.isfinite(costs) & (costs >= 0)))[0])
            raise ValueError(f"select: row {row} costs {costs[row]}; expected numbers >= 0; mend the column")
        return costs


FIELDS = tuple(each.name for each in fields(View))
"""The names of a view's fields."""


class Selector(ABC):
    """A pool's rows to a subset of them."""

    needs: frozenset[str] = frozenset()
    """The view's fields without which it cannot work."""
    by: str | None = None
    """Option of those that have it: the column that the view's `score` is read from."""
    column: str | None = None
    """Option of those that have it: the column that the view's `texts` are read from."""
    weight: str | None = None
    """Option of those that have it, what a row costs: `chars`, the characters of its text; another name,
    that column's numbers; None, one."""
    most_rows: int | None = None
    """The largest pool for which `select` is meant; an engine gives it a sample by hash of so many."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns that its options name, checked before anything starts."""
        named = (self.by, self.column, "text" if self.weight == "chars" else self.weight)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @abstractmethod
    def budget(self, rows: int, total_cost: float) -> float:
        """Return how much it may take of a pool, as its options say, in the unit of the costs.

        Args:
            rows: How many the pool has.
            total_cost: Of all of them.
        """

    @abstractmethod
    def select(self, view: View, budget: float, rng: np.random.Generator) -> Selection:
        """Choose from a whole pool.

        Args:
            view: The pool.
            budget: What the chosen rows may cost in all.
            rng: The only source of chance.

        Raises:
            ValueError: The view lacks what it needs.
        """


class RowSelector(Selector):
    """Judges each row by itself, so any number of rows streams through it.

    In each group the rows with the highest keys are taken, equal keys in the order of a hash of `row_id`,
    until the next row costs more than is left.
    """

    @abstractmethod
    def key(self, view: View) -> np.ndarray:
        """Return float64 [n]: higher is taken first; NaN: never taken."""

    def admits(self, key: np.ndarray) -> np.ndarray:
        """Return bool [n]: which keys may be taken at all."""
        return np.isfinite(key)

    def group(self, view: View) -> np.ndarray | None:
        """Return object [n]: the stratum of each row; None: all are one group."""
        return None

    def shares(self, costs: Mapping[Hashable, float], budget: float) -> Mapping[Hashable, float]:
        """Return what each group may take.

        Args:
            costs: Group → what all its admitted rows cost.
            budget: Of all groups.
        """
        return dict.fromkeys(costs, budget)

    def select(self, view: View, budget: float, rng: np.random.Generator) -> Selection:
        """Choose from a whole pool; see the class."""
        if not len(view):
            return Selection(np.zeros(0, dtype=np.int64))
        key = np.asarray(self.key(view), dtype=np.float64)
        rows = np.flatnonzero(self.admits(key))
        ids = view.need("row_ids", type(self).__name__)
        rows = rows[np.lexsort((row_hash(ids[rows]), -key[rows]))]
        costs, groups = view.spending(), self.group(view)
        number = np.zeros(len(rows), dtype=np.int64)
        names: list[Hashable] = [None]
        if groups is not None:
            names = list(dict.fromkeys(groups[rows].tolist()))
            place = {name: position for position, name in enumerate(names)}
            number = np.array([place[name] for name in groups[rows].tolist()], dtype=np.int64)
        totals = {name: float(costs[rows[number == i]].sum()) for i, name in enumerate(names)}
        shares = self.shares(totals, budget)
        taken = np.zeros(len(rows), dtype=bool)
        for i, name in enumerate(names):
            members = np.flatnonzero(number == i)
            taken[members[: affordable(costs[rows[members]], shares[name])]] = True
        return Selection(rows[taken].astype(np.int64))


class DuplicateSelector(Selector):
    """Compares only rows that share a key, so it is a group-by that any number of machines can do.

    Rows that are alike form components; of each the row with the highest score stays or, where `by` names
    none, the one whose `row_id` has the smallest hash. Everything else stays too: there is no budget.
    """

    @abstractmethod
    def signature(self, view: View) -> np.ndarray:
        """Return [n, s]: what is kept of a row to compare it."""

    @abstractmethod
    def keys(self, signature: np.ndarray) -> np.ndarray:
        """Return uint64 [n, b]: rows with the same key in the same column are compared."""

    @abstractmethod
    def alike(self, signature: np.ndarray) -> np.ndarray:
        """Return int64 [m, 2]: pairs of positions in a group's signatures [g, s] that are duplicates.

        Not every pair need be there, as long as what is there connects all that are.
        """

    def budget(self, rows: int, total_cost: float) -> float:
        """Return the cost of everything."""
        return total_cost

    def pairs(self, signature: np.ndarray) -> np.ndarray:
        """Return int64 [m, 2]: rows of a whole pool's signatures that are duplicates of each other."""
        found = [np.zeros((0, 2), dtype=np.int64)]
        for column in self.keys(signature).T:
            order = np.argsort(column, kind="stable")
            sorted_keys = column[order]
            edges = np.flatnonzero(np.r_[True, sorted_keys[1:] != sorted_keys[:-1], True])
            # Most rows share their key with nobody.
            for i in np.flatnonzero(np.diff(edges) > 1):
                group = order[edges[i] : edges[i + 1]]
                found.append(group[self.alike(signature[group])])
        return np.concatenate(found)

    def select(self, view: View, budget: float, rng: np.random.Generator) -> Selection:
        """Choose from a whole pool; see the class."""
        # Heavier than the rest of this module.
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        n = len(view)
        if not n:
            return Selection(np.zeros(0, dtype=np.int64))
        pairs = self.pairs(self.signature(view))
        graph = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
        _, component = connected_components(graph, directed=False)
        who = type(self).__name__
        tie = row_hash(view.need("row_ids", who))
        wanted = np.zeros(n) if self.by is None else np.nan_to_num(view.need("score", who), nan=-np.inf)
        order = np.lexsort((tie, -wanted, component))
        first = np.flatnonzero(np.diff(component[order], prepend=-1))
        kept = np.sort(order[first])
        return Selection(kept.astype(np.int64), notes={"duplicates": n - len(kept)})


@runtime_checkable
class Fitted(Protocol):
    """A selector that learns from a sample of the pool first; its state travels as safetensors."""

    def fit(self, view: View, rng: np.random.Generator) -> Self:
        """Forget, then learn from a sample."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Return what it learned."""
        ...

    def load_state(self, state: Mapping[str, np.ndarray]) -> Self:
        """Take what another of the same options learned."""
        ...


def row_hash(row_ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return uint64 [n]: a hash of each name, the same on every machine.

    Args:
        row_ids: Names.
        seed: Another one gives another order.
    """
    salt = seed.to_bytes(8, "little", signed=True)
    digests = [
        hashlib.blake2b(str(name).encode("utf-8", "surrogatepass"), digest_size=8, salt=salt).digest()
        for name in row_ids.tolist()
    ]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def affordable(costs: np.ndarray, budget: float) -> int:
    """Return how many rows, from the first on, a budget pays for.

    Args:
        costs: [n] >= 0, in the order in which rows are taken.
        budget: In their unit.
    """
    return int(np.searchsorted(np.cumsum(costs), budget + _SLACK * max(1.0, abs(budget)), side="right"))
