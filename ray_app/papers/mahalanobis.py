"""Paper 1: one distance in feature space notices outliers and attacks alike, and takes in new classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.encoders import Encoder, Features
from ray_app.metrics.classification import accuracy
from ray_app.metrics.detection import auroc
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches
from ray_app.papers._cifar import SIZE, cifar10
from ray_app.papers._digits import digits
from ray_app.papers._outliers import noise, patches, spectrograms
from ray_app.papers._rows import Parts, choose, features_of, small_net, train_on, without

if TYPE_CHECKING:
    from ray_app.methods import Batch

PAPER = Paper(
    title="A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
    year=2018,
    url="https://arxiv.org/abs/1807.03888",
    methods=["detectors/mahalanobis", "heads/nearest_mean"],
    claims=[
        Claim("far_outliers", "The layers' distances find far outliers: mean AUROC at least 0.995."),
        Claim(
            "far_outliers_over_max_softmax",
            "The layers' distances lead max softmax on far outliers: mean AUROC at least 0.005 above it.",
        ),
        Claim(
            "attacks_over_max_softmax",
            "Distances combined by a regression that saw attacks on validation rows lead max softmax on "
            "attacked test rows: AUROC at least 0.015 above it.",
        ),
        Claim(
            "attacks_over_last_layer",
            "The combined layers lead the last layer alone on attacked test rows: AUROC at least 0.03 above "
            "it.",
        ),
        Claim(
            "new_classes",
            "Classes that the network never saw are added by their means alone: accuracy over old and new "
            "classes at least 0.90.",
        ),
    ],
)


@dataclass(frozen=True)
class _Setting:
    """One draw of the data, with a network trained on its old classes."""

    net: Encoder
    old: Parts
    """Rows of the classes that the network saw, numbered 0..c-1."""
    added: Parts
    """Rows of the others, numbered from c on."""
    outliers: Mapping[str, "Batch"]
    attacks: Mapping[str, Any]


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on digits (quick) or CIFAR-10 (reference).

    Raises:
        SpecError: The scale is full.
    """
    if scale == "full":
        raise SpecError("mahalanobis: has no recipe for scale full; use quick or reference")
    seeds = range(3)
    make = _digits if scale == "quick" else _cifar
    found = [_measure(make(seed)) for seed in seeds]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    far, attacked = each("far: all layers"), each("attacked: combined")
    return [
        reaches("far_outliers", far, least=0.995, seeds=seeds, details=details),
        lead("far_outliers_over_max_softmax", far, each("far: max softmax"), least=0.005, seeds=seeds),
        lead("attacks_over_max_softmax", attacked, each("attacked: max softmax"), least=0.015, seeds=seeds),
        lead("attacks_over_last_layer", attacked, each("attacked: last layer"), least=0.03, seeds=seeds),
        reaches("new_classes", each("new classes: accuracy"), least=0.90, seeds=seeds),
    ]


def _digits(seed: int) -> _Setting:
    parts = digits(seed)
    old = sorted(np.random.default_rng(seed).permutation(10)[:8].tolist())
    net = _fine_net(len(old), seed)
    train_on(net, parts.only(old).train, {"epochs": 10, "lr": 4e-3, "seed": seed})
    invert = registry.build("transforms", "invert")
    outliers = {
        "patches": patches(8, 500, seed, grey=True),
        "inverted": invert(parts.only(old).test),
    }
    attacks = {"fgsm": registry.build("transforms", "fgsm", {"eps": 0.15}, model=net)}
    return _Setting(net, parts.only(old), _numbered_after(parts, old), outliers, attacks)


def _cifar(seed: int) -> _Setting:
    parts = cifar10(seed, train=20_000)
    old = sorted(np.random.default_rng(seed).permutation(10)[:6].tolist())
    net = small_net(num_classes=len(old), channels=3, image_size=SIZE, seed=seed)
    how = {"epochs": 8, "lr": 3e-3, "seed": seed, "augment": {"shift": 0.1}}
    train_on(net, parts.only(old).train, how)
    outliers = {
        "noise": noise(SIZE, 500, seed),
        "spectrograms": spectrograms(300, seed),
        "patches": patches(SIZE, 500, seed, grey=False),
    }
    attacks = {
        name: registry.build("transforms", name, {"eps": 8 / 255}, model=net) for name in ("fgsm", "bim")
    }
    return _Setting(net, parts.only(old), _numbered_after(parts, old), outliers, attacks)


def _fine_net(num_classes: int, seed: int) -> Encoder:
    """Four stages whose first sees every pixel: the usual stems leave too little of images this small."""
    arguments = {"patch_size": 1, "depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64), "kernel_sizes": 3}
    options = {"model": "test_convnext", "channels": 1, "image_size": 8, "model_args": arguments}
    net: Encoder = registry.build("encoders", "timm", {**options, "num_classes": num_classes, "seed": seed})
    return net


def _numbered_after(parts: Parts, old: list[int]) -> Parts:
    added = parts.only(without(old, 10))
    return Parts(
        *({**p, "label": p["label"] + len(old)} for p in (added.train, added.validation, added.test))
    )


def _measure(setting: _Setting) -> dict[str, float]:
    fitted = _features(setting.net, setting.old.train)
    labels = torch.from_numpy(setting.old.train["label"])
    normal = _features(setting.net, setting.old.test)
    detectors = {
        name: registry.build("detectors", *how).fit(fitted, labels)
        for name, how in {
            "max softmax": ("max_softmax", {}),
            "last layer": ("mahalanobis", {"layers": "last", "combine": "last"}),
            "all layers": ("mahalanobis", {}),
        }.items()
    }
    result = {"network: accuracy": accuracy(np.asarray(normal.logits), setting.old.test["label"])}
    for name, detector in detectors.items():
        ind = detector.score(normal)
        seen = {
            kind: auroc(ind, detector.score(_features(setting.net, batch)))
            for kind, batch in setting.outliers.items()
        }
        result[f"far: {name}"] = float(np.mean(list(seen.values())))
        result.update({f"{kind}: {name}": value for kind, value in seen.items()})
    detectors["combined"] = registry.build("detectors", "mahalanobis", {"combine": "logistic"})
    detectors["combined"].fit(fitted, labels)
    scored = [_attacked(setting, attack, detectors, normal) for attack in setting.attacks.values()]
    result.update({f"attacked: {n}": float(np.mean([one[n] for one in scored])) for n in scored[0]})
    return {**result, "new classes: accuracy": _new_classes(setting, fitted)}


def _attacked(
    setting: _Setting, attack: Any, detectors: Mapping[str, Any], normal: Features
) -> dict[str, float]:
    """AUROC of each detector on attacked test rows; the combiner learns from attacked validation rows."""
    held_out = setting.old.validation
    detectors["combined"].fit_combiner(
        _features(setting.net, held_out), _features(setting.net, attack(held_out))
    )
    abnormal = _features(setting.net, attack(setting.old.test))
    return {name: auroc(d.score(normal), d.score(abnormal)) for name, d in detectors.items()}


def _new_classes(setting: _Setting, fitted: Features) -> float:
    head = registry.build("heads", "nearest_mean", {"metric": "mahalanobis", "shrinkage": "oas"})
    head.fit(fitted, torch.from_numpy(setting.old.train["label"]))
    few = _first_of_each(setting.added.train, 50)
    head.partial_fit(_features(setting.net, few), torch.from_numpy(few["label"]))
    tests = (setting.old.test, setting.added.test)
    proba = torch.cat([head.predict_proba(_features(setting.net, test)) for test in tests])
    return accuracy(proba, np.concatenate([test["label"] for test in tests]))


def _first_of_each(batch: "Batch", rows: int) -> "Batch":
    chosen = [np.flatnonzero(batch["label"] == label)[:rows] for label in np.unique(batch["label"])]
    return choose(batch, np.concatenate(chosen))


def _features(net: Encoder, batch: "Batch") -> Features:
    return features_of(net, batch, {"layers", "logits"})
