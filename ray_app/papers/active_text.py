"""Paper 52: which texts to label next, so that few labels teach most."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.encoders import Features
from ray_app.methods.selectors import Fitted, Selector, View
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches
from ray_app.papers._installed import MODULES, PACKAGES
from ray_app.papers._rows import drawn, only
from ray_app.papers._texts import docstrings, reference

if TYPE_CHECKING:
    from ray_app.methods import Batch

PAPER = Paper(
    title="A Survey of Active Learning for Text Classification using Deep Neural Networks",
    year=2020,
    url="https://arxiv.org/abs/2008.07267",
    methods=[
        "diagnostics/learning_curve",
        "selectors/query_badge",
        "selectors/query_bald",
        "selectors/query_committee",
        "selectors/query_contrastive",
        "selectors/query_coreset",
        "selectors/query_density",
        "selectors/query_discriminative",
        "selectors/query_egl",
        "selectors/query_entropy",
        "selectors/query_least_confidence",
        "selectors/query_margin",
        "selectors/query_random",
    ],
    claims=[
        Claim(
            "margin_beats_random",
            "Asking for the smallest margins, accuracy averaged over the rounds is at least 0.015 above that "
            "of asking at random, averaged over the sets of texts.",
        ),
        Claim(
            "coreset_beats_random",
            "Asking for what is farthest from all labelled texts, it is at least 0.02 above.",
        ),
        Claim(
            "every_strategy_works",
            "Every strategy asks for as many different texts as it may, the same ones for the same chance.",
        ),
    ],
)

_MORE = ("optuna", "pydantic", "rich", "jinja2", "fastapi", "pyarrow")
_DIM = 100
_HEAD = {"C": 10.0, "standardize": False}
_CLAIMED = ["query_random", "query_margin", "query_coreset"]
_ALL = "trec6"
"""The set of texts on which every strategy is tried once; committees take six times as long."""
_NAMES = [method.partition("/")[2] for method in PAPER.methods if "query_" in method]


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on documentation of ten packages; reference: on intents, questions and tweets too.

    Raises:
        SpecError: The scale is full.
    """
    if scale == "full":
        raise SpecError("active_text: has no recipe for scale full; use quick or reference")
    seeds, quick = range(3), scale == "quick"
    sets = _SETS if not quick else {"docstrings": _SETS["docstrings"]}
    areas: dict[str, list[list[float]]] = {name: [] for name in _CLAIMED}
    details: dict[str, float] = {}
    for text, (make, classes, budget) in sets.items():
        every = text == _ALL
        found = [
            _areas(make(seed), _NAMES if every and seed == 0 else _CLAIMED, classes, budget, seed)
            for seed in seeds
        ]
        details |= {f"{text}: {name}": float(np.mean([one[name] for one in found])) for name in _CLAIMED}
        details |= {f"{text}, one seed: {name}": value for name, value in found[0].items() if every}
        for name in _CLAIMED:
            areas[name].append([one[name] for one in found])

    def mean(name: str) -> list[float]:
        averaged: list[float] = np.mean(areas[name], axis=0).tolist()
        return averaged

    random = mean("query_random")
    return [
        lead("margin_beats_random", mean("query_margin"), random, least=0.015, seeds=seeds, details=details),
        lead("coreset_beats_random", mean("query_coreset"), random, least=0.02, seeds=seeds),
        reaches("every_strategy_works", [_share_that_works(seed) for seed in seeds], least=1.0, seeds=seeds),
    ]


def _documentation(seed: int) -> "tuple[Batch, Batch]":
    batch = docstrings([*PACKAGES, *_MORE], modules=[*MODULES, *_MORE], min_chars=80, limit=1850, seed=seed)
    pool, test = drawn(batch, [1200, 600], seed)
    return pool, test


def _of(folder: str, pool: int, test: int, seed: int) -> "tuple[Batch, Batch]":
    parts = []
    for part, rows in (("train", pool), ("test", test)):
        batch = reference(f"{folder}/{part}.parquet", ("text", "label"), seed=seed)
        known = batch["label"] >= 0
        parts.append({name: values[known][:rows] for name, values in batch.items()})
    return parts[0], parts[1]


def _intents(seed: int) -> "tuple[Batch, Batch]":
    chosen = np.random.default_rng(seed).choice(150, size=30, replace=False)
    pool, test = (only(part, chosen.tolist()) for part in _of("clinc150", 15_000, 4500, seed))
    return pool, test


_SETS: Mapping[str, tuple[Callable[[int], "tuple[Batch, Batch]"], int, int]] = {
    "docstrings": (_documentation, 10, 20),
    "clinc150": (_intents, 30, 30),
    "trec6": (partial(_of, "trec6", 3000, 500), 6, 20),
    "sst2": (partial(_of, "sst2", 3000, 1500), 2, 20),
    "hate_speech": (partial(_of, "hate_speech", 3000, 1500), 3, 20),
}
"""Set of texts → its pool and test rows by seed, its classes, and labels a round."""


def _areas(
    parts: "tuple[Batch, Batch]", names: Sequence[str], classes: int, budget: int, seed: int
) -> dict[str, float]:
    """Accuracy averaged over ten rounds, of each strategy, all from one seed set."""
    pool, test = _features(*parts, seed)
    options = {"seed_size": budget, "budget": budget, "rounds": 10, "repeats": 1, "seed": seed}
    curve = registry.build("diagnostics", "learning_curve", options)
    head = partial(registry.build, "heads", "logistic", {**_HEAD, "num_classes": classes})
    queries = {name: partial(registry.build, "selectors", name) for name in names}
    table = curve.report(head, queries, pool, test)
    return {name: values[0] for name, values in curve.areas(table).items()}


def _features(pool: "Batch", test: "Batch", seed: int) -> list[tuple[Features, torch.Tensor]]:
    """Unit vectors of texts: TF-IDF of the pool, reduced by its largest singular vectors."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    vectors = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, min_df=2), TruncatedSVD(_DIM, random_state=seed), Normalizer()
    )
    vectors.fit(pool["text"])
    return [
        (
            Features(torch.from_numpy(vectors.transform(part["text"]).astype(np.float32))),
            torch.from_numpy(part["label"].astype(np.int64)),
        )
        for part in (pool, test)
    ]


def _share_that_works(seed: int) -> float:
    """The share of strategies that ask for so many different rows, and for the same ones again."""
    rng = np.random.default_rng((52, seed))
    members = rng.dirichlet(np.ones(5), size=(4, 200))
    view = View(
        row_ids=np.array([f"text {row}" for row in range(200)], dtype=object),
        features=rng.normal(size=(200, 16)).astype(np.float32),
        proba=members.mean(0),
        proba_mc=members,
        labelled_features=rng.normal(size=(30, 16)).astype(np.float32),
        labelled_labels=rng.integers(5, size=30),
    )
    return float(np.mean([_works(name, view, seed) for name in _NAMES]))


def _works(name: str, view: View, seed: int) -> bool:
    asked: list[Any] = []
    for _ in range(2):
        selector: Selector = registry.build("selectors", name, {"budget": 25})
        if isinstance(selector, Fitted):
            selector.fit(view, np.random.default_rng(seed))
        budget = selector.budget(len(view), float(len(view)))
        asked.append(selector.select(view, budget, np.random.default_rng(seed)).indices)
    return len(set(asked[0].tolist())) == len(asked[0]) == 25 and np.array_equal(*asked)
