"""Paper 67: without stop words the first tokens of a long text say what twice as many would."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches, stays
from ray_app.papers._installed import MODULES, PACKAGES
from ray_app.papers._language_models import tokenizer_of
from ray_app.papers._rows import choose, features_of, train_on
from ray_app.papers._staged import StagedSearch
from ray_app.papers._texts import docstrings

if TYPE_CHECKING:
    from ray_app.methods import Batch

PAPER = Paper(
    title="Simple Hack for Transformers against Heavy Long-Text Classification on a Time- and Memory-Limited "
    "GPU Service",
    year=2024,
    url="https://arxiv.org/abs/2403.12563",
    methods=["transforms/shorten", "diagnostics/token_length"],
    claims=[
        Claim("gain_at_16", "Of 16 tokens, dropping stop words first gains at least 0.02 of F1."),
        Claim("gain_at_32", "Of 32 tokens, it gains at least 0.01 of F1."),
        Claim(
            "half_is_enough",
            "With it, half as many tokens cost at most 0.025 of F1: 16 for 32, 32 for 64 and, at reference "
            "scale, 128 for 256 in a transformer.",
        ),
        Claim("half_the_time", "A transformer takes at most 0.6 of the time for half as many tokens."),
        Claim("staged_costs_a_sum", "Staged search takes no more trials than its factors have values."),
        Claim("staged_finds_the_best", "What it finds is at most 0.01 below the best of the whole grid."),
    ],
)

_HACK: Mapping[str, Any] = {"stopwords": "english"}
_HACKS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "no stop words": _HACK,
    "no punctuation": {"punctuation": "drop"},
    "no recurring words": {"drop_recurring": True},
    "no stop words, no recurring": {**_HACK, "drop_recurring": True},
}
_BUDGETS = (16, 32, 64)
_CUT = 800
_PAIRS = 3
_STAGES: Sequence[Mapping[str, Sequence[float]]] = (
    {"lr": [3e-5, 1e-5, 1e-4, 3e-4]},
    {"batch_size": [16, 8, 32]},
    {"epochs": [2, 1, 4, 8]},
    {"dropout": [0.1, 0.0, 0.3]},
)


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on documentation strings: bags of words; reference: a small transformer too.

    Raises:
        SpecError: The scale is full.
    """
    if scale == "full":
        raise SpecError("long_text_hack: has no recipe for scale full; use quick or reference")
    seeds, quick = range(3), scale == "quick"
    hacks = ["plain", "no stop words"] if quick else list(_HACKS)
    bags = [_bags(_texts(seed, 600 if quick else 1000), hacks, seed) for seed in seeds]
    nets = [
        _transformer(_texts(seed, 24 if quick else 450, long=True), seed, train=not quick) for seed in seeds
    ]
    searches = [_search(seed) for seed in seeds]

    def each(name: str, found: Sequence[Mapping[str, float]]) -> list[float]:
        return [one[name] for one in found]

    def of(hack: str, budget: int) -> list[float]:
        return each(f"bag of words: {hack}, {budget} tokens", bags)

    lost = [
        np.subtract(of("plain", 2 * budget), of("no stop words", budget)).tolist() for budget in _BUDGETS[:2]
    ]
    if not quick:
        lost.append(each("transformer: lost with 128 for 256 tokens", nets))
    details = {
        name: float(np.mean(each(name, found))) for found in (bags, nets, searches) for name in found[0]
    }
    hack16, hack32 = of("no stop words", 16), of("no stop words", 32)
    return [
        lead("gain_at_16", hack16, of("plain", 16), least=0.02, seeds=seeds, details=details),
        lead("gain_at_32", hack32, of("plain", 32), least=0.01, seeds=seeds),
        stays("half_is_enough", [max(each) for each in zip(*lost, strict=True)], most=0.025, seeds=seeds),
        stays("half_the_time", each("transformer: time for half", nets), most=0.6, seeds=seeds),
        stays("staged_costs_a_sum", each("search: trials", searches), most=_sum_of_values(), seeds=seeds),
        reaches("staged_finds_the_best", each("search: above the grid", searches), least=-0.01, seeds=seeds),
    ]


def _texts(seed: int, rows: int, *, long: bool = False) -> "Batch":
    """Documentation strings of four packages; long ones where a transformer reads 256 tokens of them."""
    batch = docstrings(PACKAGES, modules=MODULES, min_chars=400, max_chars=4000, seed=seed)
    characters = np.array([len(text) for text in batch["text"]])
    return choose(choose(batch, characters >= (1500 if long else 400)), slice(0, rows))


def _bags(batch: "Batch", hacks: Sequence[str], seed: int) -> dict[str, float]:
    """Macro F1 over three folds of a ridge classifier on TF-IDF, for each hack and budget."""
    found = {}
    # More than any budget needs, less than there is time to cut.
    batch = {**batch, "text": np.array([text[:_CUT] for text in batch["text"]], dtype=object)}
    for hack, budget in product(hacks, _BUDGETS):
        short = registry.build("transforms", "shorten", {**_HACKS[hack], "max_tokens": budget})
        f1 = _folds(list(short(batch)["text"]), batch["label"], seed)
        found[f"bag of words: {hack}, {budget} tokens"] = f1
    if len(hacks) == len(_HACKS):
        for budget in _BUDGETS:
            found[f"bag of words: no rare words, {budget} tokens"] = _without_rare(batch, budget, seed)
    return found


def _folds(texts: Sequence[str], labels: np.ndarray, seed: int) -> float:
    from sklearn.metrics import f1_score

    predicted = np.empty_like(labels)
    for train, test in _splits(labels, seed):
        predicted[test] = _ridge([texts[row] for row in train], labels[train], [texts[row] for row in test])
    return float(f1_score(labels, predicted, average="macro"))


def _without_rare(batch: "Batch", budget: int, seed: int) -> float:
    """Words that fewer than three training texts have go; which those are, every fold says anew."""
    from sklearn.metrics import f1_score

    labels, predicted = batch["label"], np.empty_like(batch["label"])
    shorten = registry.load("transforms", "shorten")
    for train, test in _splits(labels, seed):
        frequencies = shorten.document_frequencies(batch["text"][train])
        short = shorten(vocabulary=frequencies, min_df=3, max_tokens=budget)
        one, other = (list(short(choose(batch, rows))["text"]) for rows in (train, test))
        predicted[test] = _ridge(one, labels[train], other)
    return float(f1_score(labels, predicted, average="macro"))


def _splits(labels: np.ndarray, seed: int) -> Any:
    from sklearn.model_selection import StratifiedKFold

    return StratifiedKFold(3, shuffle=True, random_state=seed).split(labels, labels)


def _ridge(texts: Sequence[str], labels: np.ndarray, others: Sequence[str]) -> np.ndarray:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import RidgeClassifier

    vectors = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")  # noqa: S106 (no password)
    predicted: np.ndarray = (
        RidgeClassifier().fit(vectors.fit_transform(texts), labels).predict(vectors.transform(others))
    )
    return predicted


def _transformer(batch: "Batch", seed: int, *, train: bool) -> dict[str, float]:
    """The time for half as many tokens and, where asked for, F1 of networks trained on either."""
    hack = registry.build("transforms", "shorten", dict(_HACK))
    cut = len(batch["label"]) * 2 // 3
    first, rest = slice(0, cut), slice(cut, None)
    ways = {"plain, 256": (batch, 256), "hack, 128": (hack(batch), 128), "plain, 128": (batch, 128)}
    if not train:
        del ways["plain, 128"]
    with tempfile.TemporaryDirectory() as folder:
        _untrained(Path(folder), list(batch["text"][first]))
        nets = {
            name: registry.build(
                "encoders",
                "transformers",
                {"model": folder, "pretrained": False, "max_length": tokens, "num_classes": 4, "seed": seed},
            )
            for name, (_, tokens) in ways.items()
        }
    once = {"epochs": 1, "lr": 1e-3, "batch_size": 16, "seed": seed}
    few = slice(0, min(cut, 16))
    ratios = []
    for _ in range(_PAIRS + 1):
        spent = [
            _seconds(nets[name], choose(ways[name][0], few), once) for name in ("hack, 128", "plain, 256")
        ]
        ratios.append(spent[0] / spent[1])
    # The first pair pays for what is made once.
    found = {"transformer: time for half": float(np.median(ratios[1:]))}
    if train:
        for name, (texts, _) in ways.items():
            train_on(nets[name], choose(texts, first), {**once, "epochs": 5})
            found[f"transformer: {name} tokens"] = _f1(nets[name], choose(texts, rest))
        gap = found["transformer: plain, 256 tokens"] - found["transformer: hack, 128 tokens"]
        found["transformer: lost with 128 for 256 tokens"] = gap
    return found


def _seconds(net: Any, batch: "Batch", how: Mapping[str, Any]) -> float:
    # Time of this process alone: a busy machine is not the network's fault.
    started = time.process_time()
    train_on(net, batch, how)
    return time.process_time() - started


def _untrained(folder: Path, texts: Sequence[str]) -> None:
    """Write a small BERT's configuration and a tokenizer learned from texts."""
    from transformers import BertConfig

    tokenizer = tokenizer_of(texts)
    tokenizer.save_pretrained(folder)
    BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)


def _f1(net: Any, batch: "Batch") -> float:
    from sklearn.metrics import f1_score

    predicted = np.asarray(features_of(net, batch, {"logits"}, batch_size=64).logits).argmax(1)
    return float(f1_score(batch["label"], predicted, average="macro"))


def _sum_of_values() -> int:
    return sum(len(values) for stage in _STAGES for values in stage.values())


def _search(seed: int) -> dict[str, float]:
    """Staged search against the whole grid, on a response surface of single peaks that lean on each other."""
    rng = np.random.default_rng((67, seed))
    names = [name for stage in _STAGES for name in stage]
    choices = [values for stage in _STAGES for values in stage.values()]
    scale = [np.log if name != "dropout" else np.asarray for name in names]
    peak = rng.uniform(-0.5, 0.5, size=len(names))
    lean = rng.normal(scale=0.3, size=(len(names), len(names)))
    middle = [np.mean(to(values)) for to, values in zip(scale, choices, strict=True)]
    spread = [np.std(to(values)) for to, values in zip(scale, choices, strict=True)]

    def surface(setting: Mapping[str, Any]) -> float:
        x = np.array(
            [
                (float(to(setting[name])) - m) / s
                for name, to, m, s in zip(names, scale, middle, spread, strict=True)
            ]
        )
        x = x - peak
        return float(0.9 - 0.02 * (x @ x) - 0.02 * (x @ lean @ x))

    search = StagedSearch(_STAGES)
    _, best = search.run(surface)
    grid = [surface(dict(zip(names, values, strict=True))) for values in product(*choices)]
    return {
        "search: trials": float(len(search.done)),
        "search: trials of the grid": float(len(grid)),
        "search: above the grid": best - max(grid),
    }
