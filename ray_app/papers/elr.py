"""Paper 63: held to its early predictions, a network does not memorise wrong labels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.encoders import Encoder
from ray_app.methods.objectives.early_learning import EarlyLearning
from ray_app.metrics.classification import accuracy
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches, stays
from ray_app.papers._cifar import SIZE, cifar10
from ray_app.papers._digits import CLASSES, digits
from ray_app.papers._mlp import Mlp
from ray_app.papers._rows import Parts, rows_of, small_net
from ray_app.spec.train import Train
from ray_app.tune.training import logits_of, train

if TYPE_CHECKING:
    from ray_app.methods.objectives import Objective

PAPER = Paper(
    title="Early-Learning Regularization Prevents Memorization of Noisy Labels",
    year=2020,
    url="https://arxiv.org/abs/2007.00151",
    methods=["objectives/early_learning"],
    claims=[
        Claim(
            "accurate_at_the_end",
            "After the last epoch on labels of which many are wrong it leads cross-entropy by at least 0.25 "
            "in accuracy on clean test rows (reference: 0.08).",
        ),
        Claim(
            "cross_entropy_memorises",
            "Cross-entropy predicts the wrong label of at least 0.75 of the wrongly labelled training rows "
            "(reference: 0.5).",
        ),
        Claim("it_does_not", "Early-learning regularisation does so of at most 0.25."),
        Claim(
            "targets_know_better",
            "Its memory holds the true class of at least 0.9 of training rows (reference: of at least 0.05 "
            "more than the labels do).",
        ),
    ],
)


@dataclass(frozen=True)
class _Setting:
    """What both losses train on, and how."""

    start: Callable[[int], Encoder]
    """A seed's untrained network."""
    parts: Callable[[int], Parts]
    noise: float
    """Share of labels drawn anew, evenly from all classes: a tenth of those are right by chance."""
    training: Mapping[str, Any]
    strength: float
    seeds: range


def _mlp(seed: int) -> Encoder:
    return Mlp(widths=[256, 256], inputs=64, num_classes=CLASSES, seed=seed)


def _resnet(seed: int) -> Encoder:
    return small_net(num_classes=10, channels=3, image_size=SIZE, seed=seed)


_SGD: Mapping[str, Any] = {"optimizer": {"name": "sgd", "momentum": 0.9}, "weight_decay": 1e-3}
_SETTINGS: Mapping[Scale, _Setting] = {
    "quick": _Setting(
        _mlp,
        lambda seed: digits(seed, train=1200, validation=97, test=500),
        0.6,
        {**_SGD, "lr": 0.05, "epochs": 100, "batch_size": 64, "schedule": "constant", "warmup": 0},
        3.0,
        range(2),
    ),
    "reference": _Setting(
        _resnet,
        lambda seed: cifar10(seed, train=10_000),
        0.4,
        {**_SGD, "lr": 0.02, "epochs": 20, "batch_size": 64},
        7.0,
        range(2),
    ),
}


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on digits (quick) or CIFAR-10 (reference) with labels drawn anew.

    Raises:
        SpecError: The scale is full.
    """
    if scale not in _SETTINGS:
        raise SpecError("elr: has no recipe for scale full; use quick or reference")
    setting = _SETTINGS[scale]
    seeds, quick = setting.seeds, scale == "quick"
    plain, held = (
        [_measure(setting, name, seed) for seed in seeds] for name in ("cross_entropy", "early_learning")
    )

    def each(found: list[dict[str, float]], name: str) -> list[float]:
        return [one[name] for one in found]

    details = {
        f"{name}: {what}": float(np.mean(each(found, what)))
        for name, found in (("cross-entropy", plain), ("early learning", held))
        for what in found[0]
    }
    ours, theirs = each(held, "accuracy"), each(plain, "accuracy")
    relabelled = each(held, "relabelled")
    return [
        lead(
            "accurate_at_the_end", ours, theirs, least=0.25 if quick else 0.08, seeds=seeds, details=details
        ),
        reaches(
            "cross_entropy_memorises", each(plain, "memorised"), least=0.75 if quick else 0.5, seeds=seeds
        ),
        stays("it_does_not", each(held, "memorised"), most=0.25, seeds=seeds),
        reaches("targets_know_better", relabelled, least=0.9, seeds=seeds)
        if quick
        else lead("targets_know_better", relabelled, each(held, "given"), least=0.05, seeds=seeds),
    ]


def _measure(setting: _Setting, name: str, seed: int) -> dict[str, float]:
    """Train on noisy labels to the last epoch; nothing is chosen by clean ones."""
    parts = setting.parts(seed)
    truth = parts.train["label"]
    given = _noisy(truth, setting.noise, seed)
    net = setting.start(seed)
    objective: Objective = registry.build(
        "objectives",
        name,
        {"strength": setting.strength} if name == "early_learning" else {},
        num_classes=net.num_classes,
    )
    rows = rows_of(net, {**parts.train, "label": given})
    train(net, objective, rows, Train.model_validate({**setting.training, "seed": seed}))
    predicted = logits_of(net, rows).argmax(1).numpy()
    wrong = given != truth
    found = {
        "accuracy": accuracy(logits_of(net, rows_of(net, parts.test)).numpy(), parts.test["label"]),
        "memorised": float((predicted[wrong] == given[wrong]).mean()),
        "given": float((~wrong).mean()),
    }
    if isinstance(objective, EarlyLearning):
        found["relabelled"] = float((objective.relabel().numpy() == truth).mean())
    return found


def _noisy(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Labels of which this share is drawn anew from all classes."""
    rng = np.random.default_rng([seed, 63])
    drawn = rng.integers(labels.max() + 1, size=len(labels))
    return np.where(rng.random(len(labels)) < share, drawn, labels)
