"""Paper 64: a pre-trained network needs few numbers to learn a task, fewer than one with random weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, stays
from ray_app.papers._rows import train_on
from ray_app.papers._transfer import Transfer, accuracy_on, half_of_cifar, third_of_digits

PAPER = Paper(
    title="Intrinsic Dimensionality Explains the Effectiveness of Language Model Fine-Tuning",
    year=2021,
    url="https://arxiv.org/abs/2012.13255",
    methods=["adapters/intrinsic", "diagnostics/intrinsic_dimension"],
    claims=[
        Claim(
            "pretraining_needs_fewer",
            "With as many numbers a pre-trained network gets further than one whose hidden layers are "
            "random: test accuracy at least 0.02 above it, on average over the dimensions tried.",
        ),
        Claim(
            "few_numbers",
            "Numbers in a random subspace, a hundredth as many as the network has, get at least 90 % of full "
            "fine-tuning's accuracy: the share that is needed is at most 0.01.",
        ),
        Claim(
            "lower_than_random",
            "To get 90 % of the pre-trained network's full accuracy, pre-trained weights need at most half "
            "of the dimensions that random ones need.",
        ),
        Claim(
            "fastfood_equals_dense",
            "Fastfood's projection does as well as a dense one: accuracy at most 0.04 below it.",
        ),
        Claim(
            "structure_helps",
            "With a factor for each layer out of the same budget accuracy is higher.",
        ),
    ],
)


@dataclass(frozen=True)
class _Recipe:
    task: Transfer
    dims: Sequence[int]
    at: int
    """The dimension at which projections are compared."""
    projection: str
    """Of the curve."""
    training: Mapping[str, Any]
    """Settings in a subspace."""
    full: Mapping[str, Any]
    """Settings of full fine-tuning."""


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on digits (quick) or CIFAR-10 (reference).

    Raises:
        SpecError: The scale is full.
    """
    if scale == "full":
        raise SpecError("intrinsic_dimension: has no recipe for scale full; use quick or reference")
    seeds = range(3)
    make = _digits if scale == "quick" else _cifar
    found = [_measure(make(seed), seed) for seed in seeds]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    half = [0.5 * needed for needed in each("needed: random")]
    return [
        lead(
            "pretraining_needs_fewer",
            each("mean: pretrained"),
            each("mean: random"),
            least=0.02,
            seeds=seeds,
            details=details,
        ),
        stays("few_numbers", each("share needed"), most=0.01, seeds=seeds),
        lead(
            "lower_than_random",
            [-needed for needed in each("needed: pretrained")],
            [-needed for needed in half],
            least=0.0,
            seeds=seeds,
        ),
        lead("fastfood_equals_dense", each("fastfood"), each("dense"), least=-0.04, seeds=seeds),
        lead("structure_helps", each("structure aware"), each("layers alike"), least=0.0, seeds=seeds),
    ]


def _digits(seed: int) -> _Recipe:
    how = {
        "epochs": 200,
        "batch_size": 200,
        "weight_decay": 0,
        "clip": None,
        "schedule": "constant",
        "warmup": 0,
        "seed": seed,
    }
    return _Recipe(
        third_of_digits(seed),
        dims=[16, 32, 64, 128],
        at=32,
        projection="dense",
        training={**how, "lr": 0.1},
        full={**how, "lr": 3e-3},
    )


def _cifar(seed: int) -> _Recipe:
    how = {"epochs": 40, "weight_decay": 0, "clip": None, "seed": seed}
    return _Recipe(
        half_of_cifar(seed),
        dims=[50, 200, 800, 3200],
        at=200,
        projection="fastfood",
        training={**how, "lr": 0.1},
        full={**how, "lr": 1e-3},
    )


def _measure(recipe: _Recipe, seed: int) -> dict[str, float]:
    task = recipe.task

    def trained(settings: Mapping[str, Any], *, pretrained: bool) -> float:
        net = train_on(task.start(pretrained=pretrained), task.parts.train, settings)
        return accuracy_on(net, task.parts.test)

    def within(d: int, lr: float, *, pretrained: bool = True, **options: Any) -> float:
        adapter = {"name": "intrinsic", "d": d, "projection": recipe.projection, "seed": seed, **options}
        return trained({**recipe.training, "lr": lr, "adapter": adapter}, pretrained=pretrained)

    lr = float(recipe.training["lr"])
    numbers = sum(parameter.numel() for parameter in task.start().parameters())
    full = {known: trained(recipe.full, pretrained=known) for known in (True, False)}
    diagnostic = registry.build(
        "diagnostics", "intrinsic_dimension", {"dims": recipe.dims, "lrs": [lr], "seeds": [seed]}
    )
    found: dict[str, float] = {"full: pretrained": full[True], "full: random": full[False]}
    for name, known in (("pretrained", True), ("random", False)):
        curve = diagnostic.report(lambda d, lr, _, known=known: within(d, lr, pretrained=known), full[True])
        found |= {f"{name}: d = {d}": value for d, value in zip(curve["dim"], curve["value"], strict=True)}
        found[f"mean: {name}"] = float(np.mean(curve["value"]))
        # Where no d was enough, the whole network is.
        found[f"needed: {name}"] = min(curve["dimension"], float(numbers))
        # The other definition: of its own full accuracy, which flatters a weak network.
        found[f"needed for its own: {name}"] = min(
            diagnostic.reached(curve["value"], full[known]), float(numbers)
        )
    found["share needed"] = found["needed: pretrained"] / numbers
    for projection in ("fastfood", "dense"):
        found[projection] = (
            found[f"pretrained: d = {recipe.at}"]
            if projection == recipe.projection
            else within(recipe.at, lr, projection=projection)
        )
    found["layers alike"] = found[f"pretrained: d = {recipe.at}"]
    found["structure aware"] = within(recipe.at, lr, structure_aware=True)
    return found
