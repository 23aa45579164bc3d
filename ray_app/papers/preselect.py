"""Paper 22: texts that order models as their abilities do are the texts that teach those abilities."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches, stays
from ray_app.papers._language_models import taught, tokenizer_of
from ray_app.papers._rows import choose, drawn
from ray_app.papers._texts import (
    MODULES,
    bits_per_character,
    cheapest,
    cut,
    docstrings,
    language_reference,
    reference,
    sources,
    without_near_duplicates,
)

if TYPE_CHECKING:
    from ray_app.methods import Batch

PAPER = Paper(
    title="Predictive Data Selection: The Data That Predicts Is the Data That Teaches",
    year=2025,
    url="https://arxiv.org/abs/2503.00808",
    methods=["scorers/predictive_strength", "scorers/hashed_text", "selectors/top_fraction"],
    claims=[
        Claim(
            "domain_is_predictive",
            "Texts of the domain that abilities are measured on have a mean predictive strength of at least "
            "0.85.",
        ),
        Claim("other_domain_is_not", "Texts of a domain that weaker models know better have at most 0.30."),
        Claim(
            "distilled_enriches",
            "Among rows that no model has read, the distilled scorer's selection holds at least 1.8 times as "
            "many texts of the domain as the pool.",
        ),
        Claim(
            "teaches_more_than_random",
            "A model trained on the selection needs at least 3 % fewer bits a character of the domain than "
            "one trained on a random selection of as many characters.",
        ),
        Claim(
            "teaches_more_than_lowest_perplexity",
            "It needs fewer bits than one trained on as many characters of the lowest perplexity by the "
            "middle model.",
        ),
    ],
)

DRAWS = 3
# Texts of the domain and of the other one that the models of rising ability have learned from.
AMOUNTS = (4, 12, 30, 70, 150)
LIBRARY = ["asyncio", "email", "http", "json", "logging", "unittest", "urllib", "xml"]

Learner = Callable[["Sequence[str]", int], Any]
"""Texts and a seed to a scorer, nats a character."""


@dataclass(frozen=True)
class _Recipe:
    """A pool of three kinds of text, and models."""

    kinds: "Callable[[], Sequence[Batch]]"
    """Of the domain, of another one, and of neither; distinct."""
    pool: Sequence[int]
    """Texts of each kind in the pool."""
    scored: int
    """Rows of the pool that the models read."""
    examples: int
    """Of both kinds, rows that the distilled scorer learns from."""
    fraction: float
    """Of the rest's characters, what is selected."""
    held_out: int
    """Texts of the domain that abilities are measured on, and as many that selections are judged by."""


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims with character models on documentation (quick) or transformers on passages (reference).

    Raises:
        SpecError: The scale is full.
    """
    if scale not in RECIPES:
        raise SpecError(f"preselect: has no recipe for scale {scale}; use quick or reference")
    recipe, seeds = RECIPES[scale], range(3)
    with tempfile.TemporaryDirectory() as folder:
        learner = _counted if scale == "quick" else _network(recipe, Path(folder))
        found = [_measure(recipe, learner, seed) for seed in seeds]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    ours, drawn_bits = each("selected: bits"), each("random: bits")
    return [
        reaches("domain_is_predictive", each("strength: domain"), least=0.85, seeds=seeds, details=details),
        stays("other_domain_is_not", each("strength: other"), most=0.30, seeds=seeds),
        reaches("distilled_enriches", each("selected: enrichment"), least=1.8, seeds=seeds),
        reaches(
            "teaches_more_than_random",
            [1 - a / b for a, b in zip(ours, drawn_bits, strict=True)],
            least=0.03,
            seeds=seeds,
        ),
        lead(
            "teaches_more_than_lowest_perplexity",
            each("lowest perplexity: bits"),
            ours,
            least=0.0,
            seeds=seeds,
        ),
    ]


def _measure(recipe: _Recipe, learner: Learner, seed: int) -> dict[str, float]:
    domain, other, neither = recipe.kinds()
    known, measured, judged, inside = drawn(
        domain, [max(AMOUNTS), recipe.held_out, recipe.held_out, recipe.pool[0]], seed
    )
    known_other, outside = drawn(other, [max(AMOUNTS), recipe.pool[1]], seed)
    (third,) = drawn(neither, [recipe.pool[2]], seed)
    models = [
        learner([*known["text"][:more], *known_other["text"][:less]], seed)
        for more, less in zip(AMOUNTS, reversed(AMOUNTS), strict=True)
    ]
    abilities = [-bits_per_character(model, measured) for model in models]
    pool = _pool([inside, outside, third], seed)
    sample, rest = choose(pool, slice(recipe.scored)), choose(pool, slice(recipe.scored, None))
    scorer = registry.build(
        "scorers",
        "predictive_strength",
        {"abilities": abilities, "models": models, "examples": recipe.examples},
    )
    strength = scorer.strength(sample)
    chosen = cheapest(rest, -scorer.fit(sample).score(rest), recipe.fraction)
    rng = np.random.default_rng(seed)
    others = {
        "lowest perplexity": cheapest(rest, models[len(models) // 2].score(rest), recipe.fraction),
        **{
            f"random {i}": cheapest(rest, rng.random(len(rest["text"])), recipe.fraction)
            for i in range(DRAWS)
        },
    }
    bits = {
        name: bits_per_character(learner(rows["text"].tolist(), seed), judged)
        for name, rows in {"selected": chosen, **others}.items()
    }
    return {
        **{
            f"strength: {name}": float(strength[sample["kind"] == kind].mean())
            for kind, name in enumerate(KINDS)
        },
        "abilities: spread": float(np.ptp(abilities)),
        "selected: domain": float((chosen["kind"] == 0).mean()),
        "selected: enrichment": float((chosen["kind"] == 0).mean() / (rest["kind"] == 0).mean()),
        "lowest perplexity: domain": float((others["lowest perplexity"]["kind"] == 0).mean()),
        "pool: domain": float((rest["kind"] == 0).mean()),
        "selected: bits": bits["selected"],
        "lowest perplexity: bits": bits["lowest perplexity"],
        "random: bits": float(np.mean([bits[f"random {i}"] for i in range(DRAWS)])),
    }


KINDS = ("domain", "other", "neither")


def _pool(kinds: "Sequence[Batch]", seed: int) -> "Batch":
    texts = np.concatenate([kind["text"] for kind in kinds])
    number = np.repeat(np.arange(len(kinds)), [len(kind["text"]) for kind in kinds])
    order = np.random.default_rng((seed, 1)).permutation(len(texts))
    return {"text": texts[order], "kind": number[order]}


def _counted(texts: Sequence[str], seed: int) -> Any:
    scorer = registry.build("scorers", "perplexity", {"model": "ngram", "order": 4})
    return scorer.fit({"text": np.array(texts, dtype=object)})


def _network(recipe: _Recipe, folder: Path) -> Learner:
    # One tokenizer, of all kinds alike, for all models.
    every = [text for kind in recipe.kinds() for text in kind["text"][:100]]
    tokenizer = tokenizer_of(every)
    return lambda texts, seed: taught(tokenizer, texts, folder, steps=250, seed=seed)


@cache
def _documentation() -> "Sequence[Batch]":
    """scikit-learn's documentation, Python's language reference, and source code."""
    return [
        without_near_duplicates(docstrings(["sklearn"], modules=MODULES, min_chars=150)),
        without_near_duplicates(language_reference()),
        without_near_duplicates(sources(LIBRARY, min_chars=150, limit=400)),
    ]


@cache
def _passages() -> "Sequence[Batch]":
    """Movie reviews, edited English, and what is neither: spoken English, code, Finnish."""
    found = reference("web_text/passages.parquet", ("lang", "style", "domain"))
    english = found["lang"] == "en"
    code = cut(reference("code_language/files.parquet")["text"].tolist(), 1800, 150, 0)
    rest = choose(found, (english & (found["style"] == "spoken")) | (found["lang"] == "fi"))
    return [
        choose(found, found["domain"] == "movie-review"),
        choose(found, english & (found["style"] == "edited")),
        {"text": np.array([*rest["text"][:350], *code], dtype=object)},
    ]


RECIPES: dict[Scale, _Recipe] = {
    "quick": _Recipe(_documentation, (120, 250, 300), scored=260, examples=60, fraction=0.12, held_out=40),
    "reference": _Recipe(_passages, (150, 350, 300), scored=350, examples=70, fraction=0.10, held_out=40),
}
