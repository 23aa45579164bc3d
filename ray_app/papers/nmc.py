"""Paper 6: class means on frozen features learn class after class and forget none."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.evaluation.continual import History, class_tasks, follow
from ray_app.methods.encoders import Encoder, Features
from ray_app.metrics.classification import accuracy
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches
from ray_app.papers._cifar import SIZE, cifar10
from ray_app.papers._digits import digits
from ray_app.papers._probe import Probe
from ray_app.papers._rows import Parts, choose, features_of, small_net, train_on

PAPER = Paper(
    title="A Simple Baseline that Questions the Use of Pretrained-Models in Continual Learning",
    year=2022,
    url="https://arxiv.org/abs/2210.04428",
    methods=["heads/nearest_mean"],
    claims=[
        Claim("accurate", "Nearest mean knows all classes after the last task: accuracy at least 0.80."),
        Claim(
            "over_fine_tuning",
            "After the last task it leads fine-tuning the network task by task: accuracy at least 0.40 "
            "above.",
        ),
        Claim(
            "over_linear_probe",
            "After the last task it leads a linear probe of the same features trained task by task: accuracy "
            "at least 0.40 above.",
        ),
        Claim(
            "order_free",
            "Task by task and one pass over shuffled rows predict the same: at least 0.999 of test rows.",
        ),
        Claim("same_means", "Both ways lead to the same means: all of them equal to 1e-5."),
        Claim(
            "near_joint_training",
            "It comes near a logistic regression that saw all classes at once: accuracy at most 0.12 below.",
        ),
    ],
)


# Smoothed labels and changed pixels keep more of what tells unseen classes apart, by validation accuracy.
_TRAINING = {
    "epochs": 10,
    "lr": 3e-3,
    "objective": {"name": "cross_entropy", "label_smoothing": 0.1},
    "augment": {"shift": 0.1, "rotate": 10},
}


@dataclass(frozen=True)
class _Recipe:
    """A network pre-trained on half of the classes, and rows of all."""

    net: Encoder
    parts: Parts
    training: Mapping[str, Any]
    """Settings of pre-training, and of the baselines' training on each task."""


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on digits (quick) or CIFAR-10 (reference).

    The network has seen half of the classes in pre-training, on the training rows that the tasks show again.

    Raises:
        SpecError: The scale is full.
    """
    if scale == "full":
        raise SpecError("nmc: has no recipe for scale full; use quick or reference")
    seeds = range(3)
    make = _digits if scale == "quick" else _cifar
    found = [_measure(make(seed), seed) for seed in seeds]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    ours = each("nearest mean: final accuracy")
    return [
        reaches("accurate", ours, least=0.80, seeds=seeds, details=details),
        lead("over_fine_tuning", ours, each("fine-tuning: final accuracy"), least=0.40, seeds=seeds),
        lead("over_linear_probe", ours, each("linear probe: final accuracy"), least=0.40, seeds=seeds),
        reaches("order_free", each("order: equal predictions"), least=0.999, seeds=seeds),
        reaches("same_means", each("order: equal means"), least=1.0, seeds=seeds),
        lead("near_joint_training", ours, each("joint: accuracy"), least=-0.12, seeds=seeds),
    ]


def _digits(seed: int) -> _Recipe:
    net = small_net(num_classes=10, channels=1, image_size=16, seed=seed)
    return _pretrained(net, digits(seed), {**_TRAINING, "seed": seed}, seed)


def _cifar(seed: int) -> _Recipe:
    net = small_net(num_classes=10, channels=3, image_size=SIZE, seed=seed)
    return _pretrained(net, cifar10(seed, train=6000), {**_TRAINING, "seed": seed}, seed)


def _pretrained(net: Encoder, parts: Parts, settings: Mapping[str, Any], seed: int) -> _Recipe:
    half = np.random.default_rng(seed).permutation(10)[:5]
    train_on(net, choose(parts.train, np.isin(parts.train["label"], half)), settings)
    return _Recipe(net, parts, settings)


def _measure(recipe: _Recipe, seed: int) -> dict[str, float]:
    """Follow all learners through the same tasks."""
    tasks = class_tasks(10, 2, np.random.default_rng(seed + 1))
    parts = recipe.parts
    fitted, tested = (_frozen(recipe.net, batch) for batch in (parts.train, parts.test))
    labels, truth = torch.from_numpy(parts.train["label"]), parts.test["label"]
    ours = registry.build("heads", "nearest_mean", {"num_classes": 10})

    def learn(task: Sequence[int]) -> None:
        rows = torch.isin(labels, torch.tensor(list(task)))
        ours.partial_fit(fitted[rows], labels[rows])

    histories = {
        "nearest mean": follow(tasks, truth, learn, lambda: ours.predict_proba(tested)),
        "fine-tuning": _fine_tuned(recipe, tasks),
        "linear probe": _probed(recipe, tasks, fitted, tested),
    }
    joint = registry.build("heads", "logistic", {"C": 1.0}).fit(fitted, labels)
    result = {"joint: accuracy": accuracy(joint.predict_proba(tested), truth)}
    for name, history in histories.items():
        result[f"{name}: final accuracy"] = history.final_accuracy
        # That a baseline learned its tasks is what makes its forgetting mean something.
        result[f"{name}: accuracy when learned"] = float(history.accuracies.diagonal().mean())
        result[f"{name}: average accuracy"] = history.average_accuracy
        result[f"{name}: forgetting"] = history.forgetting
    return {**result, **_same_when_shuffled(ours, fitted, labels, tested, seed)}


def _frozen(net: Encoder, batch: Any) -> Features:
    """The last two stages side by side: the last alone keeps little of classes that it never saw."""
    layers = list(features_of(net, batch, {"layers"}).layers.values())
    return Features(torch.cat(layers[-2:], dim=1))


def _fine_tuned(recipe: _Recipe, tasks: Sequence[Sequence[int]]) -> History:
    net = deepcopy(recipe.net)
    train, test = recipe.parts.train, recipe.parts.test

    def learn(task: Sequence[int]) -> None:
        train_on(net, choose(train, np.isin(train["label"], task)), recipe.training)

    return follow(tasks, test["label"], learn, lambda: np.asarray(features_of(net, test, {"logits"}).logits))


def _probed(recipe: _Recipe, tasks: Sequence[Sequence[int]], fitted: Features, tested: Features) -> History:
    probe = Probe(dim=fitted.pooled.shape[1], num_classes=10)
    # On standardised features, so that one learning rate suits every network.
    mean, spread = fitted.pooled.mean(0), fitted.pooled.std(0).clamp(min=1e-6)
    tensors = ((fitted.pooled - mean) / spread).numpy()
    labels = recipe.parts.train["label"]
    test = {"tensor": ((tested.pooled - mean) / spread).numpy()}

    # Features are not augmented, and one linear layer takes larger steps.
    how = {**recipe.training, "augment": {}, "lr": 1e-2}

    def learn(task: Sequence[int]) -> None:
        rows = np.isin(labels, task)
        train_on(probe, {"tensor": tensors[rows], "label": labels[rows]}, how)

    return follow(
        tasks,
        recipe.parts.test["label"],
        learn,
        lambda: np.asarray(features_of(probe, test, {"logits"}).logits),
    )


def _same_when_shuffled(
    head: Any, fitted: Features, labels: torch.Tensor, tested: Features, seed: int
) -> dict[str, float]:
    """Compare the head that met the classes in tasks with one that saw all rows at once, shuffled."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    at_once = registry.build("heads", "nearest_mean", {"num_classes": 10}).fit(fitted[order], labels[order])
    equal = head.predict_proba(tested).argmax(1) == at_once.predict_proba(tested).argmax(1)
    means = torch.isclose(head.means, at_once.means, rtol=1e-5, atol=1e-5).all(1)
    return {
        "order: equal predictions": float(equal.double().mean()),
        "order: equal means": float(means.double().mean()),
    }
