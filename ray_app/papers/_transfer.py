"""A network pre-trained on one task, and few rows of another: what papers about adapters start from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ray_app.methods.encoders import Encoder
from ray_app.metrics.classification import accuracy
from ray_app.papers._cifar import SIZE, cifar10
from ray_app.papers._digits import digits
from ray_app.papers._mlp import VectorMlp, vectors
from ray_app.papers._rows import Parts, choose, features_of, only, rows_of, small_net, train_on, without
from ray_app.tune.training import recalibrate

if TYPE_CHECKING:
    from ray_app.methods import Batch


@dataclass(frozen=True)
class Transfer:
    """A start, and the new task's rows."""

    start: Callable[..., Encoder]
    """Returns the network with a fresh classifier; `pretrained=False`: its hidden layers are random too."""
    parts: Parts


def third_of_digits(seed: int) -> Transfer:
    """Ten digits to pre-train on; the task is another question about 200 other rows: the digit modulo 3.

    Args:
        seed: Of rows, weights and pre-training.
    """
    parts = digits(seed)
    rows = vectors(parts.train)
    known = VectorMlp(inputs=64, dim=64, num_classes=10, seed=seed)
    settings = {"epochs": 40, "batch_size": 32, "weight_decay": 0, "seed": seed}
    train_on(known, choose(rows, slice(800)), settings)

    def start(*, pretrained: bool = True) -> Encoder:
        net = VectorMlp(inputs=64, dim=64, num_classes=3, seed=1000 + seed)
        if pretrained:
            net.hidden.load_state_dict(known.hidden.state_dict())
        return net

    def task(batch: "Batch") -> "Batch":
        return {**batch, "label": batch["label"] % 3}

    few = task(choose(rows, slice(800, None)))
    return Transfer(start, Parts(few, task(vectors(parts.validation)), task(vectors(parts.test))))


def half_of_cifar(seed: int) -> Transfer:
    """Five classes to pre-train on; the task is the other five, 256 rows of them.

    Args:
        seed: Of rows, classes, weights and pre-training.
    """
    parts = cifar10(seed, train=10_600)
    classes = sorted(np.random.default_rng(seed).permutation(10)[:5].tolist())
    known = small_net(num_classes=5, channels=3, image_size=SIZE, seed=seed)
    settings = {"epochs": 10, "lr": 3e-3, "augment": {"shift": 0.1}, "seed": seed}
    # Whole batches of 64: batch norm of the last stage, a pixel wide, cannot train on a batch of one row.
    train_on(known, choose(only(choose(parts.train, slice(10_000)), classes), slice(4800)), settings)
    few = Parts(choose(parts.train, slice(10_000, None)), parts.validation, parts.test)
    few = few.only(without(classes, 10))
    few = Parts(choose(few.train, slice(256)), few.validation, few.test)

    def start(*, pretrained: bool = True) -> Encoder:
        net = small_net(num_classes=5, channels=3, image_size=SIZE, seed=1000 + seed)
        if pretrained:
            # The old classes' outputs mean nothing here.
            fresh = {name: value for name, value in net.state_dict().items() if name.startswith("net.fc.")}
            net.load_state_dict({**known.state_dict(), **fresh})
        # Adapters keep statistics as they are, and random weights have none that fit.
        recalibrate(net, rows_of(net, few.train))
        return net

    return Transfer(start, few)


def accuracy_on(net: Encoder, batch: "Batch") -> float:
    """Return how many rows of a batch a network with a classifier gets right, as a share."""
    logits = features_of(net, batch, {"logits"}).logits
    if logits is None:
        raise TypeError(f"{type(net).__name__}: has no logits; give it num_classes")
    return accuracy(torch.softmax(logits, 1).numpy(), batch["label"])
