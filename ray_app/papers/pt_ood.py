"""Paper 51: classes that pre-training saw slip past a classifier's boundaries, not past neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.encoders import Encoder, Features
from ray_app.metrics.classification import accuracy
from ray_app.metrics.detection import auroc
from ray_app.papers import Claim, Outcome, Paper, Scale, lead
from ray_app.papers._cifar import SIZE, cifar10
from ray_app.papers._digits import digits
from ray_app.papers._rows import Parts, features_of, only, train_on, without

PAPER = Paper(
    title="Can Pre-trained Networks Detect Familiar Out-of-Distribution Data?",
    year=2023,
    url="https://arxiv.org/abs/2310.00847",
    methods=["detectors/knn", "diagnostics/linear_separability"],
    claims=[
        Claim(
            "neighbours_over_boundaries",
            "Of a backbone pre-trained without labels, nearest neighbours find familiar outliers better than "
            "max softmax of a linear probe: AUROC at least 0.04 above it.",
        ),
        Claim(
            "labels_separate",
            "Pre-training with labels makes familiar outliers more linearly separable than pre-training "
            "without: accuracy at least 0.02 above it.",
        ),
        Claim(
            "boundaries_are_vulnerable",
            "What neighbours gain over max softmax is larger without labels in pre-training than with them.",
        ),
    ],
)


@dataclass(frozen=True)
class _Recipe:
    """How both backbones are pre-trained, on the rows of all classes."""

    parts: Parts
    model: Mapping[str, Any]
    """Options of the encoder."""
    without_labels: Mapping[str, Any]
    """Settings of training."""
    with_labels: Mapping[str, Any]
    k: int
    """Which neighbour counts."""


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on digits (quick) or CIFAR-10 (reference).

    Raises:
        SpecError: The scale is full.
    """
    if scale == "full":
        raise SpecError("pt_ood: has no recipe for scale full; use quick or reference")
    seeds = range(3)
    make = _digits if scale == "quick" else _cifar
    found = [_measure(make(seed), seed) for seed in seeds]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    gains = {
        how: np.subtract(each(f"{how}: knn"), each(f"{how}: max_softmax")).tolist()
        for how in ("without labels", "with labels")
    }
    return [
        lead(
            "neighbours_over_boundaries",
            each("without labels: knn"),
            each("without labels: max_softmax"),
            least=0.04,
            seeds=seeds,
            details=details,
        ),
        lead(
            "labels_separate",
            each("with labels: separability"),
            each("without labels: separability"),
            least=0.02,
            seeds=seeds,
        ),
        lead(
            "boundaries_are_vulnerable",
            gains["without labels"],
            gains["with labels"],
            least=np.nextafter(0, 1),
            seeds=seeds,
        ),
    ]


def _digits(seed: int) -> _Recipe:
    # One patch covers the image, so that what remains of this transformer is a network of full connections.
    single = {"img_size": 8, "patch_size": 8, "class_token": False, "global_pool": "avg"}
    arguments = {**single, "embed_dim": 64, "depth": 1, "num_heads": 1, "mlp_ratio": 2}
    model = {"model": "test_vit", "channels": 1, "image_size": 8, "model_args": arguments}
    views = {"noise": 0.15, "shift": 0.125, "erase": 0.15, "temperature": 0.5}
    contrast = {"objective": {"name": "in_batch_contrastive", **views}, "batch_size": 128}
    return _Recipe(
        digits(seed),
        model,
        {"epochs": 40, "lr": 2e-3, "seed": seed, **contrast},
        {"epochs": 20, "lr": 2e-3, "seed": seed},
        k=5,
    )


def _cifar(seed: int) -> _Recipe:
    views = {"noise": 0.05, "shift": 0.15, "rotate": 10, "erase": 0.15, "temperature": 0.5}
    contrast = {"objective": {"name": "in_batch_contrastive", **views}, "batch_size": 256}
    return _Recipe(
        cifar10(seed, train=5000),
        {"model": "test_resnet", "channels": 3, "image_size": SIZE},
        {"epochs": 8, "lr": 3e-3, "seed": seed, **contrast},
        {"epochs": 8, "lr": 3e-3, "seed": seed},
        k=50,
    )


def _measure(recipe: _Recipe, seed: int) -> dict[str, float]:
    """Every figure of both backbones, on the same division into familiar classes and known ones."""
    known = np.random.default_rng(seed).permutation(10)[:5].tolist()
    result = {}
    for how, settings in (("without labels", recipe.without_labels), ("with labels", recipe.with_labels)):
        options = {**recipe.model, "num_classes": 10, "seed": seed}
        backbone: Encoder = registry.build("encoders", "timm", options)
        train_on(backbone, recipe.parts.train, settings)
        found = _judge(backbone, recipe.parts, known, recipe.k)
        result.update({f"{how}: {name}": value for name, value in found.items()})
    return result


def _judge(backbone: Encoder, parts: Parts, known: Sequence[int], k: int) -> dict[str, float]:
    """Fit a probe and detectors on the known classes; the others are the familiar outliers."""
    ind = parts.only(known)
    fitted, normal = features_of(backbone, ind.train), features_of(backbone, ind.test)
    abnormal = features_of(backbone, only(parts.test, without(known, 10)))
    labels = torch.from_numpy(ind.train["label"])
    probe = registry.build("heads", "logistic", {"C": 1.0}).fit(fitted, labels)

    def probed(features: Features) -> Features:
        return replace(features, logits=probe.logits(features))

    result = {
        "probe accuracy": accuracy(probe.predict_proba(normal), ind.test["label"]),
        "separability": registry.build("diagnostics", "linear_separability").report(normal, abnormal)[
            "accuracy"
        ],
    }
    detectors: dict[str, dict[str, Any]] = {
        "max_softmax": {},
        "energy": {},
        "knn": {"k": k},
        "mahalanobis": {"layers": "last", "combine": "last"},
    }
    for name, options in detectors.items():
        detector = registry.build("detectors", name, options).fit(probed(fitted), labels)
        result[name] = auroc(detector.score(probed(normal)), detector.score(probed(abnormal)))
    return result
