"""Paper 54: a network trained for one task, frozen, with a linear classifier on top, serves another task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.encoders import Encoder, Features
from ray_app.metrics.classification import accuracy
from ray_app.metrics.retrieval import mean_average_precision
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches
from ray_app.papers._cifar import SIZE, cifar10
from ray_app.papers._rows import Parts, choose, features_of, only, small_net, train_on, without

if TYPE_CHECKING:
    from ray_app.methods import Batch

PAPER = Paper(
    title="CNN Features off-the-shelf: an Astounding Baseline for Recognition",
    year=2014,
    url="https://arxiv.org/abs/1403.6382",
    methods=["heads/linear_svm", "encoders/timm"],
    claims=[
        Claim(
            "over_pixels",
            "A linear SVM on a frozen network's last layer leads one on pixels, on classes that the network "
            "never saw: accuracy at least 0.25 above it.",
        ),
        Claim(
            "over_random_network",
            "It leads one on the same network with random weights: accuracy at least 0.20 above it.",
        ),
        Claim(
            "deeper_transfers_better",
            "The last layer leads the first convolution: accuracy at least 0.15 above it.",
        ),
        Claim(
            "retrieval_over_pixels",
            "Distances in the last layer rank images of a query's class before others: mean average "
            "precision at least 1.8 times that of distances between pixels.",
        ),
    ],
)

# Capitals without those that look like a digit.
LETTERS = "ACDEFGHJKLMNPQRTUVWXY"
GLYPH_SIZE = 16
FIRST = "conv1.2"
LAYERS = (FIRST, "layer1", "layer2", "layer3", "layer4")
"""The first convolution with its non-linearity, and the stages."""
GRID = (0.1, 1.0, 10.0)
"""Values of C, of which held-out training rows choose."""
QUERIES = 500


@dataclass(frozen=True)
class _Setting:
    """A network trained on some classes, and rows of others."""

    net: Encoder
    untrained: Encoder
    """The network as it was before."""
    target: Parts
    """Few labelled rows to fit on; test."""


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims from letters to digits (quick) or from six classes of CIFAR-10 to the others.

    Raises:
        SpecError: The scale is full.
    """
    if scale == "full":
        raise SpecError("cnn_off_the_shelf: has no recipe for scale full; use quick or reference")
    seeds = range(2) if scale == "quick" else range(3)
    make = _glyphs if scale == "quick" else _cifar
    found = [_measure(make(seed)) for seed in seeds]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    last = each(f"accuracy: {LAYERS[-1]}")
    gain = [one["mAP: network"] / one["mAP: pixels"] for one in found]
    return [
        lead("over_pixels", last, each("accuracy: pixels"), least=0.25, seeds=seeds, details=details),
        lead("over_random_network", last, each("accuracy: random network"), least=0.20, seeds=seeds),
        lead("deeper_transfers_better", last, each(f"accuracy: {FIRST}"), least=0.15, seeds=seeds),
        reaches("retrieval_over_pixels", gain, least=1.8, seeds=seeds),
    ]


def _glyphs(seed: int) -> _Setting:
    letters = registry.build("generators", "glyphs", {"alphabet": LETTERS, "size": GLYPH_SIZE})
    digits = registry.build("generators", "glyphs", {"size": GLYPH_SIZE})
    untrained, net = (_net(len(LETTERS), 1, GLYPH_SIZE, seed, 8) for _ in range(2))
    how = {"epochs": 4, "batch_size": 128, "lr": 3e-3, "seed": seed}
    train_on(net, letters.at(range(6000), 2 * seed), how)
    return _Setting(net, untrained, _few(digits.at(range(1500), 2 * seed + 1), 15))


def _cifar(seed: int) -> _Setting:
    parts = cifar10(seed, train=20_000)
    known = sorted(np.random.default_rng(seed).permutation(10)[:6].tolist())
    untrained, net = (_net(len(known), 3, SIZE, seed, 16) for _ in range(2))
    how = {"epochs": 6, "batch_size": 128, "lr": 3e-3, "seed": seed, "augment": {"shift": 0.1}}
    train_on(net, only(parts.train, known), how)
    new = parts.only(without(known, 10))
    return _Setting(net, untrained, Parts(_few(new.train, 50).train, new.validation, new.test))


def _net(num_classes: int, channels: int, image_size: int, seed: int, output_stride: int) -> Encoder:
    # Small images: a stride as on large ones would leave a single place in the last layers.
    return small_net(
        num_classes=num_classes,
        channels=channels,
        image_size=image_size,
        seed=seed,
        layers=LAYERS,
        output_stride=output_stride,
    )


def _few(batch: "Batch", per_class: int) -> Parts:
    """The first rows of each class to fit on; the rest to test on."""
    labels = batch["label"]
    few = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)])
    rest = np.setdiff1d(np.arange(len(labels)), few)
    return Parts(choose(batch, few), choose(batch, slice(0, 0)), choose(batch, rest))


def _measure(setting: _Setting) -> dict[str, float]:
    few, test = setting.target.train, setting.target.test
    pixels = [_pixels(batch) for batch in (few, test)]
    trained, random = (
        [features_of(net, batch, {"maps"}).maps for batch in (few, test)]
        for net in (setting.net, setting.untrained)
    )
    last = LAYERS[-1]
    found = {
        "accuracy: pixels": _svm(pixels, few, test),
        "accuracy: random network": _svm([maps[last].flatten(1) for maps in random], few, test),
        **{
            f"accuracy: {layer}": _svm([maps[layer].flatten(1) for maps in trained], few, test)
            for layer in LAYERS
        },
    }
    queries = choose(test, slice(QUERIES))["label"]
    for name, rows in (("pixels", pixels[1]), ("network", trained[1][last].flatten(1))):
        found[f"mAP: {name}"] = _retrieval(rows, queries, test["label"])
    return found


def _pixels(batch: "Batch") -> Tensor:
    """Float32 [n, d] in 0..1."""
    return torch.from_numpy(batch["image"].reshape(len(batch["image"]), -1).astype(np.float32) / 255)


def _svm(rows: Sequence[Tensor], few: "Batch", test: "Batch") -> float:
    head = registry.build("heads", "linear_svm", {"grid": list(GRID)})
    head.fit(Features(rows[0]), torch.from_numpy(few["label"]))
    return accuracy(head.predict_proba(Features(rows[1])).numpy(), test["label"])


def _retrieval(rows: Tensor, queries: np.ndarray, labels: np.ndarray) -> float:
    """Mean average precision of rankings by distance between rows of length 1; the first rows are queries."""
    unit = F.normalize(rows)
    closeness = -torch.cdist(unit[: len(queries)], unit).numpy()
    itself = np.eye(len(queries), len(labels), dtype=bool)
    return mean_average_precision(closeness, queries[:, None] == labels, ~itself)
