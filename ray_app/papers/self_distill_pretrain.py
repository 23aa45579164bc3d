"""Paper 8: pre-trained further with its first attempt as a teacher, a network stays near its start."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.encoders import Encoder
from ray_app.methods.objectives import Composed, Objective, TrainBatch
from ray_app.metrics.classification import accuracy
from ray_app.papers import Claim, Outcome, Paper, Scale, lead
from ray_app.papers._cifar import SIZE, cifar10
from ray_app.papers._digits import digits
from ray_app.papers._rows import Parts, choose, drawn, features_of, rows_of, train_on
from ray_app.spec.train import Train
from ray_app.tune.training import logits_of, train

if TYPE_CHECKING:
    from ray_app.methods import Batch

PAPER = Paper(
    title="Self-Distillation for Further Pre-training of Transformers",
    year=2023,
    url="https://arxiv.org/abs/2210.02871",
    methods=["objectives/self_distill", "objectives/masked_autoencoding"],
    claims=[
        Claim(
            "nearer_in_weights",
            "The student's weights stay nearer to the start than those of as many further steps.",
        ),
        Claim("nearer_in_function", "So do its hidden states, on images that neither was trained on."),
        Claim(
            "less_over_fitting",
            "Its error on masked patches of such images is not above that of further pre-training.",
        ),
        Claim(
            "better_than_fine_tuning",
            "Fine-tuned on few labels, it leads the fine-tuned start by at least 0.02 in accuracy.",
        ),
        Claim("better_than_further", "And it leads the fine-tuned network of further pre-training."),
    ],
)


@dataclass(frozen=True)
class _Setting:
    parts: Callable[[int], Parts]
    net: Mapping[str, Any]
    """Options of the transformer."""
    target: int
    """Images without labels of the second half of classes."""
    labels: int
    draws: int
    """Of the labelled rows; what they give is averaged."""
    epochs: tuple[int, int, int]
    """Of pre-training, of further pre-training (each round), and of fine-tuning."""
    seeds: Sequence[int]


def _vit(size: int, channels: int, patch: int, dim: int, depth: int) -> Mapping[str, Any]:
    shape = {"patch_size": patch, "embed_dim": dim, "depth": depth, "num_heads": 4, "img_size": size}
    # Patches alone are what masked autoencoding trains: they are pooled too.
    pooling = {"global_pool": "avg", "class_token": False, "fc_norm": False}
    return {
        "model": "vit_tiny_patch16_224",
        "num_classes": 5,
        "channels": channels,
        "image_size": size,
        "model_args": {**shape, **pooling},
    }


_SETTINGS: Mapping[Scale, _Setting] = {
    "quick": _Setting(digits, _vit(8, 1, 2, 32, 2), 150, 40, 1, (20, 50, 15), range(2)),
    "reference": _Setting(
        lambda seed: cifar10(seed, train=8000), _vit(SIZE, 3, 4, 64, 4), 500, 500, 2, (15, 60, 15), range(3)
    ),
}
_MASKED = {"mask_ratio": 0.6}


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on digits (quick) or CIFAR-10 (reference): 5 classes to pre-train on, 5 to move to.

    Raises:
        SpecError: The scale is full.
    """
    if scale not in _SETTINGS:
        raise SpecError("self_distill_pretrain: has no recipe for scale full; use quick or reference")
    setting, seeds = _SETTINGS[scale], _SETTINGS[scale].seeds
    found = [_measure(setting, seed) for seed in seeds]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    def below(claim: str, what: str) -> Outcome:
        return lead(claim, each(f"further: {what}"), each(f"student: {what}"), least=0.0, seeds=seeds)

    details = {name: float(np.mean(each(name))) for name in found[0]}
    student = each("student: accuracy")
    return [
        lead(
            "nearer_in_weights",
            each("further: weights moved"),
            each("student: weights moved"),
            least=0.0,
            seeds=seeds,
            details=details,
        ),
        below("nearer_in_function", "states moved"),
        below("less_over_fitting", "masked error"),
        lead("better_than_fine_tuning", student, each("start: accuracy"), least=0.02, seeds=seeds),
        lead("better_than_further", student, each("further: accuracy"), least=0.0, seeds=seeds),
    ]


def _measure(setting: _Setting, seed: int) -> dict[str, float]:
    parts = setting.parts(seed)
    first, second = parts.only(range(5)), parts.only(range(5, 10))
    start: Encoder = registry.build("encoders", "timm", {**setting.net, "seed": seed})
    masked: Objective = registry.build("objectives", "masked_autoencoding", {**_MASKED, "seed": seed})
    target = choose(second.train, slice(setting.target))
    _pretrain(start, masked, first.train, setting.epochs[0], seed)
    # Both go on from the start, its decoder included, for as many steps in the same order.
    nets = {"start": start}
    objectives = {"start": masked}
    for name in ("further", "student"):
        net, objective = deepcopy(start), deepcopy(masked)
        whole = objective
        if name == "student":
            teacher = deepcopy(nets["further"])
            distill = registry.build("objectives", "self_distill", teacher=teacher)
            whole = Composed(
                parts={"masked": objective, "distill": distill}, weights={"masked": 1.0, "distill": 1.0}
            )
        _pretrain(net, whole, target, setting.epochs[1], seed)
        nets[name], objectives[name] = net, objective
    found: dict[str, float] = {}
    states = {name: _states(net, second.test) for name, net in nets.items()}
    for name, net in nets.items():
        pairs = zip(net.parameters(), start.parameters(), strict=True)
        moved = sum(float((a - b).detach().square().sum()) for a, b in pairs) ** 0.5
        found[f"{name}: weights moved"] = moved
        found[f"{name}: states moved"] = float((states[name] - states["start"]).square().mean())
        found[f"{name}: masked error"] = _error(net, objectives[name], second.test)
        found[f"{name}: accuracy"] = _downstream(setting, net, second, seed)
    return found


def _states(net: Encoder, batch: "Batch") -> Tensor:
    tokens = features_of(net, batch, {"tokens"}).tokens
    if tokens is None:
        raise ValueError("self_distill_pretrain: the network gives no tokens")
    return tokens


def _pretrain(net: Encoder, objective: Objective, batch: "Batch", epochs: int, seed: int) -> None:
    how = {"epochs": epochs, "batch_size": 50, "lr": 5e-3, "weight_decay": 0.0, "seed": seed}
    train(net, objective, rows_of(net, batch), Train.model_validate(how))


@torch.no_grad()
def _error(net: Encoder, objective: Objective, batch: "Batch") -> float:
    """Mean squared error on masked patches, the same ones for every network."""
    generator = torch.Generator().manual_seed(0)
    inputs = rows_of(net.eval(), batch).inputs
    losses = [objective.loss(net, TrainBatch(inputs), 0, generator)["loss"].item() for _ in range(4)]
    return float(np.mean(losses))


def _downstream(setting: _Setting, net: Encoder, parts: Parts, seed: int) -> float:
    """Test accuracy after fine-tuning on few labels, averaged over draws of them."""
    values = []
    for draw in range(setting.draws):
        (few,) = drawn(parts.train, [setting.labels], seed * 100 + draw)
        how = {"epochs": setting.epochs[2], "batch_size": 10, "lr": 2e-3, "seed": draw}
        tuned = train_on(deepcopy(net), few, how)
        values.append(accuracy(logits_of(tuned, rows_of(tuned, parts.test)).numpy(), parts.test["label"]))
    return float(np.mean(values))
