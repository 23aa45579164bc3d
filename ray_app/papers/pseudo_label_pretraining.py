"""Paper 14: a model's own labels of many rows pre-train the next one, before it learns the few true ones."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from ray_app.errors import SpecError
from ray_app.metrics.classification import accuracy
from ray_app.papers import Claim, Outcome, Paper, Scale, lead
from ray_app.papers._bag import Bag
from ray_app.papers._installed import MODULES, PACKAGES
from ray_app.papers._rows import drawn, rows_of, train_on
from ray_app.papers._texts import docstrings, reference
from ray_app.tune.training import logits_of

if TYPE_CHECKING:
    from ray_app.methods import Batch
    from ray_app.methods.encoders import Encoder

PAPER = Paper(
    title="Predictions For Pre-training Language Models",
    year=2020,
    url="https://arxiv.org/abs/2011.09031",
    methods=["objectives/pseudo_label"],
    claims=[
        Claim(
            "gain_with_few_labels",
            "With few labels it leads the model that made the pseudo labels by at least 0.02 in accuracy.",
        ),
        Claim(
            "over_longer_training",
            "It leads a model that trained on the few labels for as many steps in all, by at least 0.01.",
        ),
        Claim(
            "last_stage_matters",
            "Fine-tuning on the true labels adds at least 0.01 to the pre-trained model.",
        ),
        Claim("gain_shrinks", "With many labels the gain is smaller by at least 0.01."),
        Claim("no_harm", "With many labels it costs at most 0.005."),
    ],
)

BATCH_LABELLED, BATCH_UNLABELLED = 16, 32


@dataclass(frozen=True)
class _Setting:
    rows: Callable[[int], "Batch"]
    """A seed's texts, in random order."""
    classes: int
    few: int
    many: int
    unlabelled: int
    test: int
    epochs: tuple[int, int]
    """On few labels, and on many."""
    pretraining: int
    """Epochs on pseudo labels."""
    seeds: Sequence[int]


def _documentation(seed: int) -> "Batch":
    return docstrings(PACKAGES, modules=MODULES, min_chars=40, max_chars=300, seed=seed)


def _intents(seed: int) -> "Batch":
    found = reference("clinc150/train.parquet", ("text", "label"), seed=seed)
    return {name: values[found["label"] >= 0] for name, values in found.items()}


_SETTINGS: Mapping[Scale, _Setting] = {
    "quick": _Setting(_documentation, len(PACKAGES), 80, 1200, 1500, 500, (20, 3), 3, range(3)),
    "reference": _Setting(_intents, 150, 750, 9000, 4500, 1500, (20, 5), 5, range(3)),
}


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on documentation strings (quick) or the intents of CLINC150 (reference).

    The network is a mean of word vectors drawn at random: what is called a pre-trained language model in the
    paper knows nothing here.

    Raises:
        SpecError: The scale is full.
    """
    if scale not in _SETTINGS:
        raise SpecError("pseudo_label_pretraining: has no recipe for scale full; use quick or reference")
    setting, seeds = _SETTINGS[scale], _SETTINGS[scale].seeds
    few, many = (
        [_measure(setting, labels, epochs, seed) for seed in seeds]
        for labels, epochs in zip((setting.few, setting.many), setting.epochs, strict=True)
    )

    def each(found: list[dict[str, float]], name: str) -> list[float]:
        return [one[name] for one in found]

    details = {
        f"{size}: {name}": float(np.mean(each(found, name)))
        for size, found in (("few", few), ("many", many))
        for name in found[0]
    }
    last, first = "after both", "labels alone"
    small, large = (
        [b - a for a, b in zip(each(found, first), each(found, last), strict=True)] for found in (few, many)
    )
    return [
        lead(
            "gain_with_few_labels",
            each(few, last),
            each(few, first),
            least=0.02,
            seeds=seeds,
            details=details,
        ),
        lead("over_longer_training", each(few, last), each(few, "longer"), least=0.01, seeds=seeds),
        lead(
            "last_stage_matters", each(few, last), each(few, "pseudo labels alone"), least=0.01, seeds=seeds
        ),
        lead("gain_shrinks", small, large, least=0.01, seeds=seeds),
        lead("no_harm", each(many, last), each(many, first), least=-0.005, seeds=seeds),
    ]


def _measure(setting: _Setting, labels: int, epochs: int, seed: int) -> dict[str, float]:
    labelled, unlabelled, test = drawn(setting.rows(seed), [labels, setting.unlabelled, setting.test], seed)
    start = Bag(num_classes=setting.classes, seed=seed)

    def on_labels(net: "Encoder", epochs: int) -> "Encoder":
        how = {"epochs": epochs, "batch_size": BATCH_LABELLED, "lr": 3e-3, "seed": seed}
        return train_on(net, labelled, how)

    def judged(net: "Encoder") -> float:
        return accuracy(logits_of(net, rows_of(net, test)).numpy(), test["label"])

    labeller = on_labels(deepcopy(start), epochs)
    steps = ceil(setting.unlabelled / BATCH_UNLABELLED) * setting.pretraining
    longer = on_labels(deepcopy(start), epochs + round(steps / ceil(labels / BATCH_LABELLED)))
    # From the start anew, not from the labeller: that would only confirm its errors.
    how = {
        "epochs": setting.pretraining,
        "batch_size": BATCH_UNLABELLED,
        "lr": 3e-3,
        "seed": seed,
        "objective": "pseudo_label",
    }
    net = train_on(deepcopy(start), unlabelled, how, teacher=deepcopy(labeller))
    pseudo = judged(net)
    given = logits_of(labeller, rows_of(labeller, unlabelled)).numpy()
    return {
        "labels alone": judged(labeller),
        "longer": judged(longer),
        "pseudo labels alone": pseudo,
        "after both": judged(on_labels(net, epochs)),
        "pseudo labels that are right": accuracy(given, unlabelled["label"]),
    }
