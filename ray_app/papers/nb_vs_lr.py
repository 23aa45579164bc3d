"""Paper 11: naive Bayes needs few labels where logistic regression needs many, and is overtaken with many."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ray_app import registry
from ray_app.errors import RunError, SpecError
from ray_app.methods.diagnostics.sample_efficiency import SampleEfficiency
from ray_app.methods.encoders import Encoder, Features
from ray_app.methods.generators.gaussian_classes import GaussianClasses
from ray_app.methods.heads import Head
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches, stays
from ray_app.papers._cifar import SIZE, cifar10
from ray_app.papers._digits import digits
from ray_app.papers._rows import Parts, choose, features_of, small_net, train_on

if TYPE_CHECKING:
    from ray_app.methods import Batch

PAPER = Paper(
    title="Revisiting Discriminative vs. Generative Classifiers: Theory and Implications",
    year=2023,
    url="https://arxiv.org/abs/2302.02334",
    methods=[
        "heads/naive_bayes",
        "heads/logistic",
        "diagnostics/sample_efficiency",
        "generators/gaussian_classes",
    ],
    claims=[
        Claim(
            "logistic_grows_2",
            "Rows that logistic regression needs to come near the Bayes error grow with the number of "
            "features, two classes: exponent at least 0.7.",
        ),
        Claim("logistic_grows_5", "The same with five classes: exponent at least 0.4."),
        Claim(
            "scaled_logistic_grows_2",
            "The same with two classes when each feature is standardised first: exponent at least 0.7.",
        ),
        Claim("scaled_logistic_grows_5", "And with five classes: exponent at least 0.4."),
        Claim(
            "naive_bayes_does_not_grow",
            "Rows that naive Bayes needs hardly grow: exponent at most 0.2, with two classes and with five.",
        ),
        Claim(
            "naive_bayes_needs_fewer",
            "Logistic regression needs at least 10 times the rows of naive Bayes, whatever the number of "
            "features and classes.",
        ),
        Claim(
            "gap_widens",
            "That ratio rises with every step of the number of features: least factor of a step at least 1.",
        ),
        Claim(
            "ahead_with_few_labels",
            "On a supervised network's features, naive Bayes is at least as accurate as logistic regression "
            "at the smallest number of labels, both with the option that validation rows prefer.",
        ),
        Claim(
            "overtaken_with_many_labels",
            "There, logistic regression is at least as accurate as naive Bayes at the largest number.",
        ),
    ],
)

HEADS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "naive_bayes": ("naive_bayes", {}),
    # Hardly any penalty, and raw features, as in the paper; scaling is a stronger baseline.
    "logistic": ("logistic", {"C": 1e6, "standardize": False}),
    "scaled_logistic": ("logistic", {"C": 1e6}),
}
CLASSES = (2, 5)
CHOICES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "naive_bayes": [{"var_smoothing": 1e-9}, {"var_smoothing": 1e-4}, {"var_smoothing": 1e-2}],
    "logistic": [{"C": 1.0}, {"C": 1e-2}, {"C": 1e2}],
}
"""Head → options, of which validation rows choose: as many for one as for the other."""
NEAR = 0.02
"""How near to the Bayes error a head must come."""
STEP = 1.25
"""Factor between numbers of rows that are tried."""


@dataclass(frozen=True)
class _Plan:
    """How large a scale is."""

    dims: Sequence[int]
    seeds: Sequence[int]
    repeats: int
    """Subsets of each size of real features."""
    per_class: Sequence[int]
    """Labels a class on real features."""


PLANS: Mapping[Scale, _Plan] = {
    "quick": _Plan((50, 100, 200), range(3), 5, (2, 5, 10, 20, 50)),
    "reference": _Plan((100, 200, 400), range(3), 3, (2, 5, 10, 20, 50, 100, 300, 900)),
}


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on generated rows, and on features of digits (quick) or CIFAR-10 (reference).

    Raises:
        SpecError: The scale is full.
        RunError: A head needs more rows than were made.
    """
    if scale not in PLANS:
        raise SpecError(f"nb_vs_lr: has no recipe for scale {scale}; use quick or reference")
    plan = PLANS[scale]
    return [*_simulated(plan), *_two_regimes(scale, plan)]


def _simulated(plan: _Plan) -> list[Outcome]:
    # Axes: head, classes, dims, seed.
    needed = np.array(
        [[[_needed(classes, dim, seed) for seed in plan.seeds] for dim in plan.dims] for classes in CLASSES]
    ).transpose(3, 0, 1, 2)
    naive, logistic, scaled = needed

    def growth(table: np.ndarray) -> np.ndarray:
        """Exponents [classes, seed]."""
        return np.array(
            [[SampleEfficiency.growth(plan.dims, one) for one in of_class.T] for of_class in table]
        )

    ratio = logistic / naive
    details = {
        f"{head}: rows needed, {classes} classes, {dim} features": float(needed[h, c, d].mean())
        for h, head in enumerate(HEADS)
        for c, classes in enumerate(CLASSES)
        for d, dim in enumerate(plan.dims)
    }
    seeds = list(plan.seeds)
    raw, standardised = growth(logistic), growth(scaled)
    least_scaled = {"least ratio where features are standardised": float((scaled / naive).min())}
    return [
        reaches("logistic_grows_2", raw[0].tolist(), least=0.7, seeds=seeds, details=details),
        reaches("logistic_grows_5", raw[1].tolist(), least=0.4, seeds=seeds),
        reaches("scaled_logistic_grows_2", standardised[0].tolist(), least=0.7, seeds=seeds),
        reaches("scaled_logistic_grows_5", standardised[1].tolist(), least=0.4, seeds=seeds),
        stays("naive_bayes_does_not_grow", growth(naive).max(0).tolist(), most=0.2, seeds=seeds),
        reaches(
            "naive_bayes_needs_fewer",
            ratio.min((0, 1)).tolist(),
            least=10,
            seeds=seeds,
            details=least_scaled,
        ),
        reaches("gap_widens", (ratio[:, 1:] / ratio[:, :-1]).min((0, 1)).tolist(), least=1, seeds=seeds),
    ]


def _needed(classes: int, dim: int, seed: int) -> list[int]:
    """Rows that each of HEADS needs."""
    task = GaussianClasses(num_classes=classes, dim=dim)
    # Even raw features ask for fewer rows than this for each feature.
    train, test = (
        _features(task.at(range(n), 2 * seed + part)) for part, n in enumerate((4 * classes**2 * dim, 2000))
    )
    study = SampleEfficiency(sizes=_growing(classes, len(train[1])), repeats=1, seed=seed)
    found = []
    for name, make in _makers(HEADS).items():
        size = study.needed(make, train, test, task.bayes_error + NEAR)
        if size is None:
            raise RunError(
                f"nb_vs_lr: {name} stays {NEAR} above the Bayes error with {study.sizes[-1]} rows "
                f"({classes} classes, {dim} features, seed {seed}); make more of them"
            )
        found.append(size)
    return found


def _features(batch: "Batch") -> tuple[Features, Tensor]:
    return Features(torch.from_numpy(batch["tensor"])), torch.from_numpy(batch["label"])


def _growing(start: int, stop: int) -> list[int]:
    sizes = [start]
    while (larger := max(sizes[-1] + 1, int(sizes[-1] * STEP))) <= stop:
        sizes.append(larger)
    return sizes


def _makers(heads: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, Callable[[], Head]]:
    return {
        label: partial(registry.build, "heads", name, options) for label, (name, options) in heads.items()
    }


def _two_regimes(scale: Scale, plan: _Plan) -> list[Outcome]:
    # Axes: seed, head, size.
    accuracies = np.array([_accuracies(scale, plan, seed) for seed in plan.seeds])
    naive, logistic = accuracies[:, 0], accuracies[:, 1]
    seeds = list(plan.seeds)
    details = {
        f"{head}: accuracy, {labels} labels a class": float(accuracies[:, h, s].mean())
        for h, head in enumerate(CHOICES)
        for s, labels in enumerate(plan.per_class)
    }
    few, many = (0, -1)
    return [
        lead(
            "ahead_with_few_labels",
            naive[:, few].tolist(),
            logistic[:, few].tolist(),
            least=0,
            seeds=seeds,
            details=details,
        ),
        lead(
            "overtaken_with_many_labels",
            logistic[:, many].tolist(),
            naive[:, many].tolist(),
            least=0,
            seeds=seeds,
        ),
    ]


def _accuracies(scale: Scale, plan: _Plan, seed: int) -> list[list[float]]:
    """Test accuracy of each head at each size, with the option that validation rows prefer there."""
    net, parts = (_digits if scale == "quick" else _cifar)(seed)
    train, validation, test = (
        (features_of(net, part), torch.from_numpy(part["label"]))
        for part in (parts.train, parts.validation, parts.test)
    )
    sizes = [labels * net.num_classes for labels in plan.per_class]
    study = SampleEfficiency(sizes=sizes, repeats=plan.repeats, seed=seed)
    found = []
    for name, options in CHOICES.items():
        makers = {str(option): partial(registry.build, "heads", name, option) for option in options}
        chosen, reported = (_by_size(study.report(makers, train, rows)) for rows in (validation, test))
        found.append(reported[chosen.argmax(0), np.arange(len(sizes))].tolist())
    return found


def _by_size(table: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """Mean accuracy over repeats [heads, sizes], heads in their order of appearance."""
    head, size, error = (np.asarray(table[column]) for column in ("head", "size", "error"))
    return np.array(
        [
            [1 - error[(head == name) & (size == one)].mean() for one in np.unique(size)]
            for name in dict.fromkeys(head.tolist())
        ]
    )


def _digits(seed: int) -> tuple[Encoder, Parts]:
    parts = digits(seed, train=1100, validation=200, test=497)
    return _supervised(parts, 500, 1, 8, {"epochs": 15, "lr": 3e-3, "seed": seed})


def _cifar(seed: int) -> tuple[Encoder, Parts]:
    parts = cifar10(seed, train=20_000)
    how = {"epochs": 6, "lr": 3e-3, "seed": seed, "augment": {"shift": 0.1}}
    return _supervised(parts, 10_000, 3, SIZE, how)


def _supervised(
    parts: Parts, rows: int, channels: int, size: int, how: Mapping[str, Any]
) -> tuple[Encoder, Parts]:
    """A network trained on the first so many training rows, and the other rows for the heads."""
    net = small_net(num_classes=10, channels=channels, image_size=size, seed=int(how["seed"]))
    train_on(net, choose(parts.train, slice(rows)), how)
    return net, Parts(choose(parts.train, slice(rows, None)), parts.validation, parts.test)
