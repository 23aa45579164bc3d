"""Paper 15: a small model learns more from a teacher when it has read before, even the same texts."""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app.errors import SpecError
from ray_app.methods.encoders import Encoder
from ray_app.metrics.classification import accuracy
from ray_app.papers import Claim, Outcome, Paper, Scale, lead
from ray_app.papers._bert import Words, words_of
from ray_app.papers._installed import MODULES, PACKAGES
from ray_app.papers._rows import Parts, choose, drawn, features_of, train_on
from ray_app.papers._texts import docstrings, reference

if TYPE_CHECKING:
    from ray_app.methods import Batch

PAPER = Paper(
    title="Well-Read Students Learn Better: On the Importance of Pre-training Compact Models",
    year=2019,
    url="https://arxiv.org/abs/1908.08962",
    methods=["objectives/distill", "objectives/masked_lm"],
    claims=[
        Claim(
            "distilled_over_fine_tuned",
            "A pre-trained student that learns a teacher's soft labels of unlabelled texts leads the same "
            "student fine-tuned on the labels by at least 0.01 in test accuracy.",
        ),
        Claim(
            "both_over_distilled_alone",
            "It leads a student distilled from random weights by at least 0.005, though it was pre-trained "
            "on exactly the texts that both are distilled on: the effects add up.",
        ),
        Claim(
            "pre_training_helps_small_models",
            "Fine-tuned after pre-training, a student leads one from random weights by at least 0.03.",
        ),
    ],
)


@dataclass(frozen=True)
class _Setting:
    """What is learned from, and how long."""

    parts: Parts
    """Labelled texts: few to train on."""
    unlabelled: "Batch"
    """What is pre-trained and distilled on."""
    classes: int
    vocabulary: int
    max_length: int
    student: tuple[int, int]
    """Layers and width."""
    teacher: tuple[int, int]
    epochs: Mapping[str, int]
    """Of reading and distilling (over unlabelled texts) and of fine-tuning, the teacher's apart."""
    batch: int
    rates: Mapping[str, float]
    """Learning rates, chosen on other seeds than those reported."""


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on documentation strings (quick) or CLINC150 (reference).

    Raises:
        SpecError: The scale is full.
    """
    if scale == "full":
        raise SpecError("well_read_students: has no recipe for scale full; use quick or reference")
    seeds = range(2 if scale == "quick" else 3)
    found = [measure((docstrings_of if scale == "quick" else intents_of)(seed), seed) for seed in seeds]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    both = each("read, distilled")
    return [
        lead(
            "distilled_over_fine_tuned",
            both,
            each("read, fine-tuned"),
            least=0.01,
            seeds=seeds,
            details=details,
        ),
        lead("both_over_distilled_alone", both, each("distilled"), least=0.005, seeds=seeds),
        lead(
            "pre_training_helps_small_models",
            each("read, fine-tuned"),
            each("fine-tuned"),
            least=0.03,
            seeds=seeds,
        ),
    ]


def docstrings_of(seed: int) -> _Setting:
    """Which package a documentation string comes from."""
    texts = docstrings(PACKAGES, modules=MODULES, max_chars=300)
    train, test, unlabelled = drawn(texts, [60, 300, 1200], seed)
    return _Setting(
        parts=Parts(train, test, test),
        unlabelled=unlabelled,
        classes=len(PACKAGES),
        vocabulary=1000,
        max_length=24,
        student=(1, 32),
        teacher=(1, 64),
        epochs={"read": 8, "distil": 6, "tune": 30, "teacher": 10},
        batch=100,
        rates={"read": 5e-3, "distil": 5e-3, "tune": 5e-3, "teacher": 3e-3},
    )


def intents_of(seed: int) -> _Setting:
    """Which of 150 intents an utterance has; ten labelled utterances of each for the student."""
    everything, tested = (_intents(split, seed) for split in ("train", "test"))
    train, unlabelled = drawn(everything, [1500, 9000], seed)
    return _Setting(
        parts=Parts(train, tested, tested),
        unlabelled=unlabelled,
        classes=int(everything["label"].max()) + 1,
        vocabulary=4000,
        max_length=24,
        student=(2, 64),
        teacher=(4, 128),
        epochs={"read": 10, "distil": 15, "tune": 30, "teacher": 15},
        batch=64,
        rates={"read": 3e-3, "distil": 3e-3, "tune": 2e-3, "teacher": 1e-3},
    )


def _intents(split: str, seed: int) -> "Batch":
    batch = reference(f"clinc150/{split}.parquet", ["label", "is_oos"], seed=seed)
    kept = choose(batch, ~batch["is_oos"].astype(bool))
    return {"text": kept["text"], "label": kept["label"].astype(np.int64)}


def measure(setting: _Setting, seed: int) -> dict[str, float]:
    """Return the test accuracy of the teacher and of each student."""
    with tempfile.TemporaryDirectory() as folder:
        words = words_of(setting.unlabelled["text"].tolist(), Path(folder), setting.vocabulary)
        made = _trained(setting, words, seed)
        return {name: _accuracy(encoder, setting.parts.test) for name, encoder in made.items()}


def _trained(setting: _Setting, words: Words, seed: int) -> dict[str, Encoder]:
    few = setting.parts.train
    # Without the labels: no objective could read them by mistake.
    texts = {"text": setting.unlabelled["text"]}

    def how(stage: str, rate: str | None = None, **more: Any) -> dict[str, Any]:
        return {
            "epochs": setting.epochs[stage],
            "lr": setting.rates[rate or stage],
            "batch_size": setting.batch,
            "seed": seed,
            **more,
        }

    def net(size: tuple[int, int], *, rate: str | None = None, read: bool) -> Encoder:
        layers, dim = size
        blank = words.bert(
            layers=layers,
            dim=dim,
            num_classes=setting.classes,
            max_length=setting.max_length,
            seed=seed,
        )
        reading = how("read", rate, objective=words.masked_lm())
        return train_on(blank, texts, reading) if read else blank

    def tuned(encoder: Encoder) -> Encoder:
        return train_on(encoder, few, how("tune"))

    # The teacher knows the labels of half of the texts that students only read.
    half = {name: column[: len(column) // 2] for name, column in setting.unlabelled.items()}
    known = {name: np.concatenate([few[name], half[name]]) for name in ("text", "label")}
    teacher = train_on(net(setting.teacher, rate="teacher", read=True), known, how("teacher"))

    def distilled(encoder: Encoder) -> Encoder:
        soft = how("distil", objective={"name": "distill", "divergence": "cross_entropy"})
        return train_on(encoder, texts, soft, teacher=teacher)

    small = setting.student
    return {
        "teacher": teacher,
        "fine-tuned": tuned(net(small, read=False)),
        "read, fine-tuned": tuned(net(small, read=True)),
        "distilled": distilled(net(small, read=False)),
        "read, distilled": distilled(net(small, read=True)),
    }


def _accuracy(encoder: Encoder, batch: "Batch") -> float:
    logits = features_of(encoder, batch, {"logits"}).logits
    return math.nan if logits is None else accuracy(logits.numpy(), batch["label"])
