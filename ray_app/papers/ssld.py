"""Paper 10: a small network learns more from a teacher's soft labels of any images than from labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app.errors import SpecError
from ray_app.methods.encoders import Encoder
from ray_app.metrics.classification import accuracy
from ray_app.papers import Claim, Outcome, Paper, Scale, lead
from ray_app.papers._cifar import SIZE, cifar10
from ray_app.papers._digits import digits
from ray_app.papers._rows import Parts, choose, features_of, small_net, train_on

if TYPE_CHECKING:
    from ray_app.methods import Batch

PAPER = Paper(
    title="Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve "
    "Backbones",
    year=2021,
    url="https://arxiv.org/abs/2103.05959",
    methods=["objectives/distill"],
    claims=[
        Claim(
            "distilled_over_supervised",
            "A student that learns a teacher's soft labels of all images, labelled or not, leads the same "
            "student trained with labels for as many steps by at least 0.008 in test accuracy.",
        ),
        Claim(
            "unlabelled_rows_matter",
            "It leads the student that learns the teacher's soft labels of the labelled images alone by at "
            "least 0.005.",
        ),
        Claim(
            "js_not_below_cross_entropy",
            "Jensen-Shannon divergence is at most 0.003 below cross-entropy to the soft labels.",
        ),
    ],
)

WIDTHS = (8, 12, 12, 24)
"""Of the student; the teacher has four times as many channels."""


@dataclass(frozen=True)
class _Setting:
    """What is learned from, and how."""

    parts: Parts
    labelled: int
    """The first so many training rows have labels."""
    private: int
    """The last so many are the teacher's alone: it is strong, as the paper's is, by what students lack."""
    channels: int
    size: int
    stride: int
    """Of the networks: pixels for one place of the last map."""
    teacher: Mapping[str, Any]
    steps: int
    """Of every student, in batches of `batch`."""
    batch: int
    rates: Mapping[str, float]
    """Learning rate of each way to train, chosen on other seeds than those reported."""
    augment: Mapping[str, float]


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on digits (quick) or CIFAR-10 (reference).

    Raises:
        SpecError: The scale is full.
    """
    if scale == "full":
        raise SpecError("ssld: has no recipe for scale full; use quick or reference")
    seeds = range(2 if scale == "quick" else 3)
    found = [measure((digits_of if scale == "quick" else cifar_of)(seed), seed) for seed in seeds]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    return [
        lead(
            "distilled_over_supervised",
            each("js"),
            each("labels"),
            least=0.008,
            seeds=seeds,
            details=details,
        ),
        lead("unlabelled_rows_matter", each("js"), each("js on labelled"), least=0.005, seeds=seeds),
        lead("js_not_below_cross_entropy", each("js"), each("cross_entropy"), least=-0.003, seeds=seeds),
    ]


def digits_of(seed: int) -> _Setting:
    """100 labelled digits, 600 without; 600 that the teacher alone has seen."""
    return _Setting(
        parts=digits(seed, train=1300, validation=0, test=497),
        labelled=100,
        private=600,
        channels=1,
        size=8,
        stride=32,
        teacher={"epochs": 15, "lr": 1e-2},
        # With fewer, Jensen-Shannon's small gradient is still on its way.
        steps=168,
        batch=50,
        rates={"labels": 1e-2, "js": 1e-2, "cross_entropy": 1e-2},
        augment={"noise": 0.1, "shift": 0.125},
    )


def cifar_of(seed: int) -> _Setting:
    """2000 labelled images, 10000 without; 8000 that the teacher alone has seen."""
    return _Setting(
        parts=cifar10(seed, train=20_000, validation=1),
        labelled=2000,
        private=8000,
        channels=3,
        size=SIZE,
        stride=32,
        teacher={"epochs": 15, "lr": 3e-3},
        steps=940,
        batch=128,
        rates={"labels": 1e-2, "js": 1e-2, "cross_entropy": 1e-2},
        augment={"shift": 0.1},
    )


def measure(setting: _Setting, seed: int) -> dict[str, float]:
    """Return the test accuracy of the teacher and of each student."""
    train = setting.parts.train
    every, private = choose(train, slice(-setting.private)), choose(train, slice(-setting.private, None))
    labelled = choose(every, slice(setting.labelled))
    known = {name: np.concatenate([column, private[name]]) for name, column in labelled.items()}
    shared = {"batch_size": setting.batch, "augment": dict(setting.augment), "seed": seed}

    def net(of: int, widths: Sequence[int] | None) -> Encoder:
        return small_net(
            num_classes=10,
            channels=setting.channels,
            image_size=setting.size,
            seed=of,
            output_stride=setting.stride,
            widths=widths,
        )

    teacher = train_on(net(1000 + seed, None), known, {**shared, **setting.teacher})

    def student(way: str, rows: "Batch") -> Encoder:
        epochs = round(setting.steps * setting.batch / len(rows["label"]))
        how = {**shared, "epochs": epochs, "lr": setting.rates[way]}
        if way == "labels":
            return train_on(net(seed, WIDTHS), rows, how)
        # Without the labels: no objective could read them by mistake.
        blank = {**rows, "label": np.zeros_like(rows["label"])}
        objective = {"name": "distill", "divergence": way}
        return train_on(net(seed, WIDTHS), blank, {**how, "objective": objective}, teacher=teacher)

    made = {
        "teacher": teacher,
        "labels": student("labels", labelled),
        "js": student("js", every),
        "js on labelled": student("js", labelled),
        "cross_entropy": student("cross_entropy", every),
    }
    return {name: _accuracy(encoder, setting.parts.test) for name, encoder in made.items()}


def _accuracy(encoder: Encoder, batch: "Batch") -> float:
    logits = features_of(encoder, batch, {"logits"}).logits
    return math.nan if logits is None else accuracy(logits.numpy(), batch["label"])
