"""Paper 65: training singular values alone does as well as LoRA with a fraction of its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches, stays
from ray_app.papers._rows import features_of, train_on
from ray_app.papers._transfer import Transfer, accuracy_on, half_of_cifar, third_of_digits

PAPER = Paper(
    title="SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular Values",
    year=2024,
    url="https://arxiv.org/abs/2409.05926",
    methods=["adapters/svfit", "adapters/lora"],
    claims=[
        Claim(
            "as_good_as_lora",
            "All singular values of each layer do as well as LoRA of rank 8: test accuracy at most 0.005 "
            "below it.",
        ),
        Claim(
            "fewer_numbers",
            "They are at least 16 times fewer numbers than LoRA's matrices (the classifier trains in both).",
        ),
        Claim(
            "over_linear_probe",
            "They lead a classifier on frozen features: accuracy at least 0.01 above it.",
        ),
        Claim(
            "starts_as_pretrained",
            "Before training the answers are those of the pre-trained network: the largest difference is "
            "at most 1e-5.",
        ),
        Claim(
            "top_over_bottom",
            "Of as many singular values, the largest do better than the smallest: accuracy at least 0.01 "
            "above.",
        ),
        Claim(
            "top_over_random",
            "Of as many singular values, the largest ones do at least as well as random ones.",
        ),
    ],
)


@dataclass(frozen=True)
class _Recipe:
    task: Transfer
    part: int
    """How many of a layer's singular values, where not all of them train."""
    training: Mapping[str, Any]
    rates: Mapping[str, Sequence[float]]
    """Adapter → learning rates, of which the best on validation rows counts."""


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on digits (quick) or CIFAR-10 (reference).

    Raises:
        SpecError: The scale is full.
    """
    if scale == "full":
        raise SpecError("svfit: has no recipe for scale full; use quick or reference")
    seeds = range(3)
    make = _digits if scale == "quick" else _cifar
    found = [_measure(make(seed)) for seed in seeds]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    ours, top = each("svfit"), each("top")
    return [
        lead("as_good_as_lora", ours, each("lora"), least=-0.005, seeds=seeds, details=details),
        reaches("fewer_numbers", each("numbers: lora / svfit"), least=16, seeds=seeds),
        lead("over_linear_probe", ours, each("linear_probe"), least=0.01, seeds=seeds),
        stays("starts_as_pretrained", each("difference at the start"), most=1e-5, seeds=seeds),
        lead("top_over_bottom", top, each("bottom"), least=0.01, seeds=seeds),
        lead("top_over_random", top, each("random"), least=0.0, seeds=seeds),
    ]


def _digits(seed: int) -> _Recipe:
    return _Recipe(
        third_of_digits(seed),
        part=16,
        training={"epochs": 60, "batch_size": 32, "weight_decay": 0, "clip": None, "seed": seed},
        # The best ones on validation rows of seeds that are not reported.
        rates={"svfit": [0.03], "lora": [0.03], "linear_probe": [0.1]},
    )


def _cifar(seed: int) -> _Recipe:
    return _Recipe(
        half_of_cifar(seed),
        part=8,
        training={"epochs": 30, "weight_decay": 0, "seed": seed},
        rates={"svfit": [0.1, 0.3], "lora": [3e-3, 1e-2, 3e-2], "linear_probe": [0.1, 0.3]},
    )


def _measure(recipe: _Recipe) -> dict[str, float]:
    adapters: Mapping[str, Mapping[str, Any]] = {
        "svfit": {"name": "svfit"},
        "lora": {"name": "lora", "r": 8},
        "linear_probe": {"name": "linear_probe"},
        **{
            keep: {"name": "svfit", "rank": recipe.part, "keep": keep} for keep in ("top", "bottom", "random")
        },
    }
    found: dict[str, float] = {}
    for name, adapter in adapters.items():
        rates = recipe.rates[str(adapter["name"])]
        found[name], found[f"{name}: lr"] = max(_trained(recipe, adapter, lr) for lr in rates)[1:]
    numbers = {name: _numbers(recipe, adapters[name]) for name in ("svfit", "lora", "top")}
    found |= {f"numbers: {name}": float(n) for name, n in numbers.items()}
    found["numbers: lora / svfit"] = numbers["lora"] / numbers["svfit"]
    found["difference at the start"] = _difference(recipe)
    return found


def _trained(recipe: _Recipe, adapter: Mapping[str, Any], lr: float) -> tuple[float, float, float]:
    """Accuracy on validation rows and on test rows, and the learning rate."""
    parts = recipe.task.parts
    net = train_on(recipe.task.start(), parts.train, {**recipe.training, "lr": lr, "adapter": dict(adapter)})
    return accuracy_on(net, parts.validation), accuracy_on(net, parts.test), lr


def _numbers(recipe: _Recipe, adapter: Mapping[str, Any]) -> int:
    """How many numbers train beside the classifier's."""
    options = {key: value for key, value in adapter.items() if key != "name"}
    net = registry.build("adapters", str(adapter["name"]), options).attach(recipe.task.start())
    count = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    return count - sum(parameter.numel() for parameter in net.classifier.parameters())


def _difference(recipe: _Recipe) -> float:
    batch = recipe.task.parts.test
    plain, attached = recipe.task.start(), registry.build("adapters", "svfit").attach(recipe.task.start())
    logits = [features_of(net, batch, {"logits"}).logits for net in (plain, attached)]
    if logits[0] is None or logits[1] is None:
        raise TypeError("svfit: the network has no logits")
    return float((logits[0] - logits[1]).abs().max())
