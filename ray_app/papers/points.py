"""Paper 20: the least surprising fifth of a noisy corpus teaches most; soups may be made over data sets."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.combiners import Candidate, ranked
from ray_app.methods.encoders import Encoder
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches
from ray_app.papers._cifar import SIZE, cifar10
from ray_app.papers._digits import digits
from ray_app.papers._language_models import taught, tokenizer_of
from ray_app.papers._rows import Parts, choose, drawn, rows_of, small_net, train_on
from ray_app.papers._texts import (
    MODULES,
    bits_per_character,
    cheapest,
    cut,
    docstrings,
    reference,
    without_near_duplicates,
)
from ray_app.tune.combine import OnRows

if TYPE_CHECKING:
    from ray_app.methods import Batch, StateDict

PAPER = Paper(
    title="POINTS: Improving Your Vision-language Model with Affordable Strategies",
    year=2024,
    url="https://arxiv.org/abs/2409.04828",
    methods=["scorers/perplexity", "selectors/top_fraction", "combiners/greedy_soup"],
    claims=[
        Claim(
            "lowest_teaches_more",
            "A model trained on the fifth with the lowest perplexity needs at least 3 % fewer bits a "
            "character of held-out clean text than one trained on a random fifth of as many characters.",
        ),
        Claim("lowest_is_clean", "At least 0.90 of the texts in that fifth are clean ones."),
        Claim(
            "highest_teaches_least",
            "The fifth with the highest perplexity is worse than a random one: it needs more bits.",
        ),
        Claim(
            "soup_not_below_best",
            "In every seed the greedy soup of models that differ in one data set is at most 0.002 below the "
            "best of them on validation rows: test accuracy.",
        ),
        Claim(
            "soup_over_base",
            "It leads the model that was trained without any of the additional data sets by at least 0.02.",
        ),
    ],
)

FRACTION = 0.2
DRAWS = 3
# Corruptions of the test rows, each of which one additional data set shows.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "gaussian_noise": {"std": 0.25},
    "rotate": {"degrees": 25.0},
    "gaussian_blur": {"sigma": 1.0},
    "contrast": {"factor": 0.4},
}


@dataclass(frozen=True)
class _Corpus:
    """Texts of which some are noise."""

    filter: "Batch"
    """Clean texts that the filter is fitted on; none of them is anywhere else."""
    pool: "Batch"
    """`text`, and `label` 1 where it is clean."""
    held_out: "Batch"
    """Clean texts."""
    order: int
    """Characters in the filter's longest gram."""


@dataclass(frozen=True)
class _Soup:
    """A start, and what each candidate learns from it."""

    start: Encoder
    parts: Sequence["Batch"]
    """The base's rows, then those of each additional data set."""
    validation: "Batch"
    test: "Batch"
    training: Mapping[str, Any]
    """Settings, the same for all."""


Bits = Callable[["Batch"], float]
"""Trains a model on texts; bits a character of the held-out ones."""


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on documentation and digits (quick) or on passages and CIFAR-10 (reference).

    Raises:
        SpecError: The scale is full.
    """
    if scale == "full":
        raise SpecError("points: has no recipe for scale full; use quick or reference")
    seeds = range(3)
    corpus, soup = (_documentation, _digits) if scale == "quick" else (_passages, _cifar)
    with tempfile.TemporaryDirectory() as folder:
        learner = _characters if scale == "quick" else _transformer(Path(folder))
        texts = [_filtered(corpus(seed), learner, seed) for seed in seeds]
    soups = [_souped(soup(seed), seed) for seed in seeds]
    found = [{**a, **b} for a, b in zip(texts, soups, strict=True)]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    low, high, drawn = each("lowest: bits"), each("highest: bits"), each("random: bits")
    greedy, best = each("greedy soup"), each("best single")
    beside = lead("soup_not_below_best", greedy, best, least=-0.002, seeds=seeds)
    return [
        reaches(
            "lowest_teaches_more",
            [1 - a / b for a, b in zip(low, drawn, strict=True)],
            least=0.03,
            seeds=seeds,
            details=details,
        ),
        reaches("lowest_is_clean", each("lowest: clean"), least=0.90, seeds=seeds),
        lead("highest_teaches_least", high, drawn, least=0.0, seeds=seeds),
        replace(beside, held=bool(np.min(np.subtract(greedy, best)) >= -0.002)),
        lead("soup_over_base", greedy, each("base only"), least=0.02, seeds=seeds),
    ]


def _filtered(corpus: _Corpus, learner: "Callable[[_Corpus, int], Bits]", seed: int) -> dict[str, float]:
    scorer = registry.build("scorers", "perplexity", {"model": "ngram", "order": corpus.order}).fit(
        corpus.filter
    )
    scores = scorer.score(corpus.pool)
    rng = np.random.default_rng(seed)
    chosen = {
        "lowest": cheapest(corpus.pool, scores, FRACTION),
        "highest": cheapest(corpus.pool, -scores, FRACTION),
        **{f"random {i}": cheapest(corpus.pool, rng.random(len(scores)), FRACTION) for i in range(DRAWS)},
    }
    bits = learner(corpus, seed)
    result = {f"{name}: bits": bits(rows) for name, rows in chosen.items()}
    repeated = registry.build("scorers", "heuristics", {"signal": "repeated_10_grams"})
    return {
        "lowest: bits": result["lowest: bits"],
        "highest: bits": result["highest: bits"],
        "random: bits": float(np.mean([result[f"random {i}: bits"] for i in range(DRAWS)])),
        "lowest: clean": float(chosen["lowest"]["label"].mean()),
        "pool: clean": float(corpus.pool["label"].mean()),
        "lowest: repeated": float(repeated.score(chosen["lowest"]).mean()),
        "pool: repeated": float(repeated.score(corpus.pool).mean()),
    }


def _characters(corpus: _Corpus, seed: int) -> Bits:
    """The learner is the n-gram model itself, on other texts."""

    def bits(rows: "Batch") -> float:
        return bits_per_character(
            registry.build("scorers", "perplexity", {"order": 4}).fit(rows), corpus.held_out
        )

    return bits


def _transformer(folder: Path) -> "Callable[[_Corpus, int], Bits]":
    """The learner is a small transformer; all of a seed share tokenizer, start and number of steps."""

    def make(corpus: _Corpus, seed: int) -> Bits:
        tokenizer = tokenizer_of(corpus.filter["text"].tolist())

        def bits(rows: "Batch") -> float:
            scorer = taught(tokenizer, rows["text"].tolist(), folder, steps=250, seed=seed)
            return bits_per_character(scorer, corpus.held_out)

        return bits

    return make


def _documentation(seed: int) -> _Corpus:
    fitted, clean, noisy, held_out = drawn(_distinct_documentation(), [100, 200, 400, 150], seed)
    return _Corpus(fitted, _mixed(clean, _corrupted(noisy["text"].tolist(), seed), seed), held_out, 5)


def _passages(seed: int) -> _Corpus:
    """Edited English; noise is half corrupted passages, half code and pages without their articles."""
    fitted, clean, noisy, held_out = drawn(_distinct_passages(), [200, 250, 250, 150], seed)
    code = reference("code_language/files.parquet", limit=300, seed=seed)["text"].tolist()
    foreign = [*cut(_menus(), 1800, 125, seed), *cut(code, 1800, 125, seed)]
    noise = [*_corrupted(noisy["text"].tolist(), seed), *foreign]
    return _Corpus(fitted, _mixed(clean, noise, seed), held_out, 6)


def _menus() -> list[str]:
    """Web pages without the lines of their articles: an article would be clean text."""
    pages = reference("web_pages/pages.parquet", ("article_text",), text="page_text")
    return [
        "\n".join(line for line in page.split("\n") if line.strip() and line not in article)
        for page, article in zip(pages["text"], pages["article_text"], strict=True)
    ]


@cache
def _distinct_documentation() -> "Batch":
    return without_near_duplicates(docstrings(["sklearn"], modules=MODULES))


@cache
def _distinct_passages() -> "Batch":
    found = reference("web_text/passages.parquet", ("lang", "style"))
    return without_near_duplicates(choose(found, (found["lang"] == "en") & (found["style"] == "edited")))


def _mixed(clean: "Batch", noise: Sequence[str], seed: int) -> "Batch":
    texts = np.array([*clean["text"], *noise], dtype=object)
    labels = np.repeat([1, 0], [len(clean["text"]), len(noise)])
    order = np.random.default_rng(seed).permutation(len(texts))
    return {"text": texts[order], "label": labels[order]}


def _corrupted(texts: Sequence[str], seed: int) -> list[str]:
    """Each text with its characters shuffled, its words shuffled, or a third of it random signs, in turn."""
    rng = np.random.default_rng((seed, 1))
    signs = np.array(list("#$%&@|~^_<>{}[]\\/0123456789\u00a4\u00a7\u00b5\u00d8\u0416\u042f\u3042\u6f22"))

    def changed(number: int, text: str) -> str:
        if number % 3 == 0:
            return "".join(rng.permutation(list(text)))
        if number % 3 == 1:
            return " ".join(rng.permutation(text.split()))
        characters = np.array(list(text))
        hit = rng.random(len(characters)) < 1 / 3
        characters[hit] = rng.choice(signs, size=int(hit.sum()))
        return "".join(characters)

    return [changed(number, text) for number, text in enumerate(texts)]


def _ranges(*sizes: int) -> list[slice]:
    stops = np.cumsum(sizes).tolist()
    return [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]


def _digits(seed: int) -> _Soup:
    families = dict(list(FAMILIES.items())[:3])
    parts = digits(seed, train=1150, validation=220, test=427)
    start = small_net(num_classes=10, channels=1, image_size=8, seed=seed)
    how = {"epochs": 10, "lr": 5e-3, "batch_size": 64, "seed": seed}
    return _soup(
        start,
        parts,
        families,
        pretraining=400,
        base=300,
        each=150,
        first=how,
        then={**how, "epochs": 5, "lr": 2e-3},
    )


def _cifar(seed: int) -> _Soup:
    parts = cifar10(seed, train=14_000)
    start = small_net(num_classes=10, channels=3, image_size=SIZE, seed=seed)
    how = {"epochs": 6, "lr": 3e-3, "seed": seed}
    return _soup(
        start,
        parts,
        FAMILIES,
        pretraining=6000,
        base=2000,
        each=1500,
        first=how,
        then={**how, "epochs": 4, "lr": 1e-3},
    )


def _soup(
    start: Encoder,
    parts: Parts,
    families: Mapping[str, Mapping[str, Any]],
    *,
    pretraining: int,
    base: int,
    each: int,
    first: Mapping[str, Any],
    then: Mapping[str, Any],
) -> _Soup:
    transforms = [registry.build("transforms", name, dict(options)) for name, options in families.items()]
    ranges = _ranges(pretraining, base, *[each] * len(transforms))
    clean = [choose(parts.train, rows) for rows in ranges]
    train_on(start, clean[0], first)
    shown = [clean[1], *(change(rows) for change, rows in zip(transforms, clean[2:], strict=True))]
    validation, test = (
        _joined([rows, *(change(rows) for change in transforms)]) for rows in (parts.validation, parts.test)
    )
    return _Soup(start, shown, validation, test, then)


def _souped(soup: _Soup, seed: int) -> dict[str, float]:
    base, *more = soup.parts
    start = _weights(soup.start)
    datasets = {"base only": base, **{f"base and {i}": _joined([base, rows]) for i, rows in enumerate(more)}}

    def trained(rows: "Batch") -> "StateDict":
        soup.start.load_state_dict(start)
        return _weights(train_on(soup.start, rows, soup.training))

    states = {name: trained(rows) for name, rows in datasets.items()}
    validation, test = (
        OnRows(soup.start, rows_of(soup.start, rows), rows_of(soup.start, base), "accuracy")
        for rows in (soup.validation, soup.test)
    )
    candidates = [Candidate(name, validation([state]), _loads(state)) for name, state in states.items()]
    best = max(candidates, key=lambda candidate: candidate.value)
    best_first = ranked(candidates, validation)
    result = {
        f"{name} soup": registry.build("combiners", f"{name}_soup").make(best_first, validation)
        for name in ("greedy", "uniform")
    }
    return {
        **{name: test(made.members) for name, made in result.items()},
        "best single": test([best.load()]),
        "base only": test([states["base only"]]),
        "mean single": float(np.mean([test([state]) for state in states.values()])),
        "ingredients of the greedy soup": float(len(result["greedy soup"].ingredients)),
    }


def _joined(parts: "Sequence[Batch]") -> "Batch":
    return {name: np.concatenate([part[name] for part in parts]) for name in ("image", "label")}


def _loads(state: "StateDict") -> "Callable[[], StateDict]":
    return lambda: state


def _weights(encoder: Encoder) -> "StateDict":
    return {name: tensor.detach().clone() for name, tensor in encoder.state_dict().items()}
