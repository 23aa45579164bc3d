"""Paper 61: how far a preprocessing's feature density is from plain tokens' tells how badly it will do."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods._linguistic import Linguistic
from ray_app.papers import Claim, Outcome, Paper, Scale, reaches, stays
from ray_app.papers._installed import MODULES, PACKAGES
from ray_app.papers._texts import docstrings, reference

if TYPE_CHECKING:
    from ray_app.methods import Batch

PAPER = Paper(
    title="Improving Classifier Training Efficiency for Automatic Cyberbullying Detection with Feature "
    "Density",
    year=2021,
    url="https://arxiv.org/abs/2111.01689",
    methods=["diagnostics/feature_density", "selectors/preprocessing_window", "scorers/feature_density"],
    claims=[
        Claim(
            "distance_predicts_failure",
            "Of every classifier, rank correlation of |log(density / density of tokens)| with F1 is at most "
            "-0.4.",
        ),
        Claim(
            "not_by_chance",
            "Of every classifier, fewer than 0.1 of shuffled densities correlate as strongly with F1.",
        ),
        Claim(
            "window_keeps_the_best",
            "Of every classifier, the best F1 within 0.5 to 2 times the tokens' density is at most 0.01 "
            "below the best of all.",
        ),
        Claim("window_drops_runs", "That window leaves out at least 0.30 of the preprocessings."),
    ],
)

_QUICK: Mapping[str, Mapping[str, Any]] = {
    "tokens": {},
    "words": {"alpha": True},
    "words without stop words": {"alpha": True, "stop": "drop"},
    "stems": {"unit": "stem"},
    "stems without stop words": {"unit": "stem", "alpha": True, "stop": "drop"},
    "tokens with tags": {"unit": "token_tag"},
    "chunks": {"unit": "chunk"},
    "pairs of words": {"alpha": True, "n": 2},
    "tags": {"unit": "tag"},
    "stop words": {"stop": "only"},
    "endings": {"unit": "ending"},
    "letters": {"unit": "char", "alpha": True},
}
_REFERENCE: Mapping[str, Mapping[str, Any]] = {
    **_QUICK,
    "tokens as written": {"lower": False},
    "tokens without stop words": {"stop": "drop"},
    "triples of words": {"alpha": True, "n": 3},
    "triples of letters": {"unit": "char", "n": 3},
    "pairs of tags": {"unit": "tag", "n": 2},
    "pairs of stems": {"unit": "stem", "alpha": True, "stop": "drop", "n": 2},
}
_SHUFFLES = 2000


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on documentation strings; reference: on more of them, and on intents of CLINC150.

    Raises:
        SpecError: The scale is full.
    """
    if scale == "full":
        raise SpecError("feature_density: has no recipe for scale full; use quick or reference")
    seeds = range(3)
    quick = scale == "quick"
    setups = _QUICK if quick else _REFERENCE
    names = ("ridge", "naive_bayes") if quick else ("ridge", "naive_bayes", "nearest_neighbours", "sgd")
    sets: dict[str, Callable[[int], Batch]] = {
        "docstrings": lambda seed: _docstrings(seed, 400 if quick else 1200)
    }
    sets |= {} if quick else {"clinc150": _intents}
    # A claim is on every set of texts and every classifier: what counts is the worst of them.
    runs = {
        name: [_measure(make(seed), setups, names, seed) for seed in seeds] for name, make in sets.items()
    }

    def worst(
        of: Callable[[dict[str, float]], list[float]], pick: Callable[[list[float]], float]
    ) -> list[float]:
        return [pick([value for found in runs.values() for value in of(found[seed])]) for seed in seeds]

    def each(what: str) -> Callable[[dict[str, float]], list[float]]:
        return lambda found: [found[f"{name}: {what}"] for name in names]

    details = {
        f"{text}: {what}": float(np.mean([one[what] for one in found]))
        for text, found in runs.items()
        for what in found[0]
    }
    correlation = worst(each("correlation"), max)
    return [
        stays("distance_predicts_failure", correlation, most=-0.4, seeds=seeds, details=details),
        stays("not_by_chance", worst(each("p"), max), most=0.1, seeds=seeds),
        stays("window_keeps_the_best", worst(each("lost by the window"), max), most=0.01, seeds=seeds),
        reaches("window_drops_runs", worst(lambda found: [found["dropped"]], min), least=0.3, seeds=seeds),
    ]


def _docstrings(seed: int, rows: int) -> "Batch":
    return docstrings(PACKAGES, modules=MODULES, min_chars=200, limit=rows, seed=seed)


def _intents(seed: int) -> "Batch":
    batch = reference("clinc150/train.parquet", ("text", "label"), seed=seed)
    chosen = np.random.default_rng(seed).choice(150, size=20, replace=False)
    rows = np.isin(batch["label"], chosen)
    return {name: values[rows] for name, values in batch.items()}


def _measure(
    batch: "Batch", setups: Mapping[str, Mapping[str, Any]], names: Sequence[str], seed: int
) -> dict[str, float]:
    """Densities of all preprocessings, F1 of all classifiers, and how they go together."""
    texts = list(batch["text"])
    # The same texts for all, so that densities can be compared; labels are not looked at.
    table = registry.build("diagnostics", "feature_density").report(texts, setups)
    density = dict(zip(table["name"], table["density"], strict=True))
    distance = np.array([abs(np.log(density[name] / density["tokens"])) for name in setups])
    kept = registry.build("selectors", "preprocessing_window").choose(table)
    found = {"dropped": 1 - len(kept) / len(setups)}
    found |= {f"density of {name}": value for name, value in density.items()}
    scores = {name: _f1(texts, batch["label"], setup, names, seed) for name, setup in setups.items()}
    for classifier in names:
        f1 = np.array([scores[name][classifier] for name in setups])
        best = max(scores[name][classifier] for name in kept)
        found[f"{classifier}: correlation"] = _rank_correlation(distance, f1)
        found[f"{classifier}: p"] = _chance(distance, f1, np.random.default_rng(seed))
        found[f"{classifier}: lost by the window"] = float(f1.max() - best)
        found |= {f"{classifier}: F1 of {name}": scores[name][classifier] for name in setups}
    return found


def _f1(
    texts: Sequence[str], labels: np.ndarray, setup: Mapping[str, Any], names: Sequence[str], seed: int
) -> dict[str, float]:
    """Macro F1 of each classifier over three folds, on TF-IDF that each fold's training rows define."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import f1_score
    from sklearn.model_selection import StratifiedKFold

    features = np.empty(len(texts), dtype=object)
    features[:] = [Linguistic(**setup).features(text) for text in texts]
    predicted = {name: np.empty_like(labels) for name in names}
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    for train, test in folds.split(features, labels):
        vectors = TfidfVectorizer(analyzer=list, sublinear_tf=True)
        x, y = vectors.fit_transform(features[train]), vectors.transform(features[test])
        for name in names:
            predicted[name][test] = _classifier(name, seed).fit(x, labels[train]).predict(y)
    return {name: float(f1_score(labels, each, average="macro")) for name, each in predicted.items()}


def _classifier(name: str, seed: int) -> Any:
    from sklearn.linear_model import RidgeClassifier, SGDClassifier
    from sklearn.naive_bayes import ComplementNB
    from sklearn.neighbors import KNeighborsClassifier

    if name == "ridge":
        return RidgeClassifier(random_state=seed)
    if name == "naive_bayes":
        return ComplementNB()
    if name == "nearest_neighbours":
        return KNeighborsClassifier(5, metric="cosine")
    return SGDClassifier(loss="log_loss", random_state=seed)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def _chance(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> float:
    """The share of shuffled densities whose rank correlation is as low, the one measured included."""
    from scipy.stats import rankdata

    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    shuffled = np.array([rng.permutation(x) @ y for _ in range(_SHUFFLES)])
    return float((1 + (shuffled <= x @ y + 1e-9).sum()) / (1 + _SHUFFLES))
