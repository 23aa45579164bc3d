"""Papers as executable checks: one file a paper, named by its slug; its claims, and the run that tests them.

A file holds `PAPER = Paper(...)`, written in literals so that it can be listed without importing anything,
and `reproduce(scale) -> list[Outcome]`. A formula belongs to a method, never to a paper's file.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ray_app.errors import SpecError
from ray_app.registry import nearest

Scale: TypeAlias = Literal["quick", "reference", "full"]
"""quick: seconds, on bundled or generated data. reference: minutes, on the public data in the folder that
RAY_APP_REFERENCE_DATA names. full: a cluster."""


@dataclass(frozen=True)
class Claim:
    """Something that a paper says and that can turn out false."""

    name: str
    statement: str
    """With the condition under which it counts as held."""


@dataclass(frozen=True)
class Paper:
    """What a paper is and what of it is here."""

    title: str
    year: int
    url: str
    methods: Sequence[str]
    """`family/name` of what came from it."""
    claims: Sequence[Claim]


@dataclass(frozen=True)
class Outcome:
    """What became of a claim."""

    claim: str
    value: float
    baseline: float | None
    """Measured in the same run with the same budget; None: the claim is absolute."""
    interval: tuple[float, float]
    """95 % interval of the value's lead over the baseline (of the value, where there is none), over seeds."""
    seeds: Sequence[int]
    held: bool
    details: Mapping[str, float] = field(default_factory=dict)
    """Further numbers for the report."""


def lead(
    claim: str,
    values: Sequence[float],
    baselines: Sequence[float],
    *,
    least: float,
    seeds: Sequence[int],
    details: Mapping[str, float] | None = None,
) -> Outcome:
    """Return the outcome of "the value leads the baseline by at least so much, on average over seeds".

    Args:
        claim: Its name.
        values: One a seed.
        baselines: One a seed, of the same seeds.
        least: The lead that is claimed; negative: the value may fall so far short.
        seeds: Which ones.
        details: Further numbers.
    """
    return _outcome(claim, values, baselines, least, seeds, details)


def reaches(
    claim: str,
    values: Sequence[float],
    *,
    least: float,
    seeds: Sequence[int],
    details: Mapping[str, float] | None = None,
) -> Outcome:
    """Return the outcome of "the value is at least so much, averaged over seeds"; see lead."""
    return _outcome(claim, values, None, least, seeds, details)


def stays(
    claim: str,
    values: Sequence[float],
    *,
    most: float,
    seeds: Sequence[int],
    details: Mapping[str, float] | None = None,
) -> Outcome:
    """Return the outcome of "the value is at most so much, averaged over seeds"; see lead."""
    made = _outcome(claim, values, None, most, seeds, details)
    return replace(made, held=made.value <= most)


def slugs() -> list[str]:
    """Return the slugs of all papers."""
    return sorted(_files())


def check_slug(slug: str) -> None:
    """Refuse a paper that there is not.

    Raises:
        SpecError: Names the nearest ones.
    """
    if slug not in _files():
        known = list(_files())
        raise SpecError(f"unknown paper {slug!r}{nearest(slug, known)} (papers: {', '.join(known)})")


def described() -> list[dict[str, Any]]:
    """Return every paper as plain values, read from the source without importing it."""
    return [{"slug": slug, **asdict(_paper(path))} for slug, path in sorted(_files().items())]


def _outcome(
    claim: str,
    values: Sequence[float],
    baselines: Sequence[float] | None,
    least: float,
    seeds: Sequence[int],
    details: Mapping[str, float] | None,
) -> Outcome:
    # Only a reproduction needs them; listing papers stays light.
    import numpy as np

    from ray_app.metrics.interval import mean_interval

    measured = np.asarray(values, dtype=float) - (0.0 if baselines is None else np.asarray(baselines))
    around = mean_interval(measured)
    return Outcome(
        claim=claim,
        value=float(np.mean(values)),
        baseline=None if baselines is None else float(np.mean(baselines)),
        interval=(around.low, around.high),
        seeds=list(seeds),
        held=bool(measured.mean() >= least),
        details=dict(details or {}),
    )


@cache
def _files() -> dict[str, Path]:
    return {
        path.stem: path
        for path in Path(__file__).parent.glob("*.py")
        if not path.stem.startswith("_") and path.stem != "run"
    }


def _paper(path: Path) -> Paper:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PAPER":
            made = _literal(node.value)
            if isinstance(made, Paper):
                return made
    raise TypeError(f"{path.name}: has no PAPER = Paper(...) of literals")


def _literal(node: ast.expr) -> Any:
    """Evaluate literals and calls of Paper and Claim; nothing else runs."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Paper", "Claim"):
        made = {"Paper": Paper, "Claim": Claim}[node.func.id]
        named = {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg}
        return made(*map(_literal, node.args), **named)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(element) for element in node.elts]
    return ast.literal_eval(node)
