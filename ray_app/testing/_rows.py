"""Features that suites try methods on: easy ones, and ones with hard numbers."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ray_app.methods.encoders import Features


class Rows(Protocol):
    """Draws features [n] and labels int64 [n] in 0..2; the same seed gives the same rows."""

    def __call__(self, n: int, seed: int) -> tuple[Features, Tensor]:
        """Return features with pooled, layers and logits, and labels."""
        ...


def rows(n: int, seed: int, *, d: int = 6, offset: float = 0.0) -> tuple[Features, Tensor]:
    """Return three classes of correlated rows, whose logits know their class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    truth = np.random.default_rng(99)
    means, mix = truth.normal(scale=2, size=(3, d)), truth.normal(size=(d, d)) + 2 * np.eye(d)
    pooled = means[labels] + rng.normal(size=(n, d)) @ mix * 0.5 + offset
    first = np.tanh(pooled[:, : max(1, d // 2)] - offset) + rng.normal(scale=0.1, size=(n, max(1, d // 2)))
    logits = 4 * np.eye(3)[labels] + rng.normal(size=(n, 3))
    layers = {"first": tensor(first), "stages.1": tensor(pooled)}
    return Features(tensor(pooled), layers=layers, logits=tensor(logits)), torch.from_numpy(labels)


def abnormal(features: Features) -> Features:
    """Return rows that everyone should find odd: far away, and of no class."""
    return Features(
        pooled=features.pooled * -3 + 25,
        layers={name: value * -3 + 25 for name, value in features.layers.items()},
        logits=None if features.logits is None else features.logits * 0.02,
    )


def hard(draw: Rows) -> Mapping[str, tuple[Features, Tensor]]:
    """Return rows that break careless arithmetic, by what is hard about them."""
    base, labels = draw(30, 0)
    changes: Mapping[str, Callable[[Tensor], Tensor]] = {
        "means far from zero": lambda x: x + 1e4,
        "constant columns": lambda x: torch.cat([x[:, :1], torch.full_like(x[:, 1:], 3.0)], 1),
        "all rows alike": lambda x: x[:1].expand_as(x).clone(),
        "rows twice": lambda x: torch.cat([x[: len(x) // 2], x[: len(x) - len(x) // 2]]),
        "float16": lambda x: x.half(),
        "all zero": torch.zeros_like,
        "tiny": lambda x: x * 1e-20,
    }
    found = {name: (base.map(change), labels) for name, change in changes.items()}
    found["one row"] = (base[:1], labels[:1])
    found["fewer rows than dimensions"] = (base[:3], labels[:3])
    found["one class missing"] = (base[labels != 1], labels[labels != 1])
    found["one class only"] = (base, torch.zeros_like(labels))
    return found


def tensor(values: np.ndarray) -> Tensor:
    """Return float32."""
    return torch.from_numpy(values.astype(np.float32))
