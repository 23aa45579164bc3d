"""Paper 25: rows from the few sources that make up a target teach it more than the same number from all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.papers import Claim, Outcome, Paper, Scale, reaches, stays

PAPER = Paper(
    title="Improved Active Multi-Task Representation Learning via Lasso",
    year=2023,
    url="https://arxiv.org/abs/2306.02556",
    methods=["selectors/lasso_sources"],
    claims=[
        Claim(
            "known_beats_uniform",
            "With known heads, the l1 rule leaves at most 0.75 of the excess risk that as many rows leave "
            "when drawn evenly.",
        ),
        Claim("known_beats_l2", "With known heads, its excess risk is at most that of the l2 rule."),
        Claim("known_median", "With known heads, its median excess risk is below that of the l2 rule."),
        Claim(
            "estimated_beats_uniform",
            "With heads estimated from a third of the rows, the Lasso leaves at most 0.95 of the excess risk "
            "that the same total of rows leaves when drawn evenly.",
        ),
        Claim("estimated_beats_l2", "With estimated heads, its excess risk is at most that of the l2 rule."),
        Claim("sparse", "The l1 relevance has no more sources than the representation is wide."),
        Claim("l2_is_dense", "The l2 relevance has all sources."),
    ],
)


@dataclass(frozen=True)
class _World:
    """Sources and a target that share a representation."""

    d: int
    k: int
    sources: int
    rows: int
    """That may be drawn in all."""
    noise: float
    target_rows: int

    def draw(self, seed: int) -> "_Truth":
        rng = np.random.default_rng((25, seed))
        basis = np.linalg.qr(rng.normal(size=(self.d, self.k)))[0]
        heads = rng.normal(size=(self.k, self.sources))
        chosen = rng.choice(self.sources, size=2, replace=False)
        return _Truth(self, basis, heads, heads[:, chosen] @ rng.uniform(0.5, 1, size=2), seed)


@dataclass(frozen=True)
class _Truth:
    world: _World
    basis: np.ndarray
    heads: np.ndarray
    target: np.ndarray
    seed: int

    def rows(self, counts: Sequence[int], part: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Rows of each source; the same ones first, however many are asked for."""
        xs, ys = [], []
        for source, count in enumerate(counts):
            rng = np.random.default_rng((25, self.seed, part, source))
            drawn = rng.normal(size=(int(count), self.world.d + 1))
            xs.append(drawn[:, :-1])
            ys.append(xs[-1] @ self.basis @ self.heads[:, source] + self.world.noise * drawn[:, -1])
        return xs, ys

    def of_target(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((25, self.seed, 2))
        x = rng.normal(size=(self.world.target_rows, self.world.d))
        return x, x @ self.basis @ self.target + self.world.noise * rng.normal(size=len(x))

    def excess(self, learned: object, xs: list[np.ndarray], ys: list[np.ndarray]) -> float:
        """E (prediction - truth)^2 over standard normal inputs, the noise left out."""
        fitted = learned.fit_rows(xs, ys, *self.of_target())  # type: ignore[attr-defined]  # from the registry
        gap = fitted.predict(np.eye(self.world.d)) - self.basis @ self.target
        return float(np.square(gap).sum())


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on linear tasks drawn by chance; reference: more and wider ones.

    Raises:
        SpecError: The scale is full.
    """
    if scale == "full":
        raise SpecError("l1_amtrl: has no recipe for scale full; use quick or reference")
    known, estimated = _KNOWN[scale], _ESTIMATED[scale]
    seeds, fewer = range(20), range(10)
    first = [_with_known_heads(known.draw(seed)) for seed in seeds]
    second = [_with_estimated_heads(estimated.draw(100 + seed)) for seed in fewer]

    def each(name: str, found: list[dict[str, float]] = first) -> list[float]:
        return [one[name] for one in found]

    def risk(name: str) -> list[float]:
        return [one[name] for one in second]

    details = {f"known: {name}": float(np.mean(each(name))) for name in first[0]}
    details |= {f"estimated: {name}": float(np.mean(risk(name))) for name in second[0]}
    wins = float(np.mean(np.array(each("l1")) < np.array(each("uniform"))))
    details["known: share of seeds in which l1 beats uniform"] = wins
    return [
        _ratio("known_beats_uniform", each("l1"), each("uniform"), 0.75, seeds, details),
        _ratio("known_beats_l2", each("l1"), each("l2"), 1.0, seeds),
        _medians("known_median", each("l1"), each("l2"), seeds),
        _ratio("estimated_beats_uniform", risk("l1"), risk("uniform"), 0.95, fewer),
        _ratio("estimated_beats_l2", risk("l1"), risk("l2"), 1.0, fewer),
        stays("sparse", each("l1: sources"), most=known.k, seeds=seeds),
        reaches("l2_is_dense", each("l2: sources"), least=known.sources, seeds=seeds),
    ]


_KNOWN = {
    "quick": _World(d=30, k=5, sources=40, rows=1500, noise=1.0, target_rows=80),
    "reference": _World(d=100, k=5, sources=200, rows=8000, noise=1.0, target_rows=80),
}
# The first phase must give each source clearly more rows than there are inputs, or the noise be low.
_ESTIMATED = {
    "quick": _World(d=20, k=4, sources=20, rows=4000, noise=0.3, target_rows=60),
    "reference": _World(d=40, k=4, sources=40, rows=16000, noise=0.3, target_rows=60),
}


# What a build asks for; here heads are given, and `allocate` is told the budget.
_ASKED = {"target": "target", "fraction": 1.0}


def _with_known_heads(truth: _Truth) -> dict[str, float]:
    found = {}
    for norm in ("uniform", "l2", "l1"):
        options = {**_ASKED, "norm": norm, "lam": 0.0, "rank": truth.world.k}
        rule = registry.build("selectors", "lasso_sources", options).fit_heads(truth.heads, truth.target)
        counts = rule.allocate(truth.world.rows)
        found[f"{norm}: sources"] = float((np.abs(rule.relevance) > 1e-9).sum())
        learner = registry.build(
            "selectors", "lasso_sources", {**_ASKED, "norm": "uniform", "rank": truth.world.k}
        )
        found[norm] = truth.excess(learner, *truth.rows(counts, 0))
    return found


def _with_estimated_heads(truth: _Truth) -> dict[str, float]:
    world = truth.world
    even = registry.build("selectors", "lasso_sources", {**_ASKED, "norm": "uniform", "rank": world.k})
    even.fit_heads(truth.heads, truth.target)
    first = truth.rows(even.allocate(world.rows // 3), 0)
    found = {}
    for norm in ("uniform", "l2", "l1"):
        rule = registry.build("selectors", "lasso_sources", {**_ASKED, "norm": norm, "rank": world.k})
        counts = rule.fit_rows(*first, *truth.of_target()).allocate(world.rows - world.rows // 3)
        second = truth.rows(counts, 1)
        both = [
            [np.concatenate(pair) for pair in zip(a, b, strict=True)]
            for a, b in zip(first, second, strict=True)
        ]
        found[norm] = truth.excess(even, *both)
        if norm == "l1":
            found["l1: sources"] = float((np.abs(rule.relevance) > 1e-9).sum())
    return found


def _ratio(
    claim: str,
    ours: list[float],
    theirs: list[float],
    most: float,
    seeds: Sequence[int],
    details: dict[str, float] | None = None,
) -> Outcome:
    """A claim on mean risks, of which lower is better, as their ratio."""
    a, b = np.array(ours), np.array(theirs)
    ratio = a.mean() / b.mean()
    # Their mean is the ratio of means; their spread, what seeds that are hard for both leave of it.
    each = ratio + (a - ratio * b) / b.mean()
    return stays(claim, each.tolist(), most=most, seeds=seeds, details=details)


def _medians(claim: str, ours: list[float], theirs: list[float], seeds: Sequence[int]) -> Outcome:
    """The ratio of medians, its interval by drawing seeds again."""
    pairs, rng = np.array([ours, theirs]), np.random.default_rng(25)
    drawn = [np.median(pairs[:, rng.integers(len(ours), size=len(ours))], axis=1) for _ in range(2000)]
    low, high = np.quantile([a / b for a, b in drawn], [0.025, 0.975])
    a, b = np.median(pairs, axis=1)
    return Outcome(
        claim=claim,
        value=float(a / b),
        baseline=None,
        interval=(float(low), float(high)),
        seeds=list(seeds),
        held=bool(a < b),
        details={"median l1": float(a), "median l2": float(b)},
    )
