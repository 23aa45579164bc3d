"""Every registered objective keeps the contract, alone and composed; broken ones are refused by it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from ray_app import registry
from ray_app.methods.objectives import Composed, Objective, TrainBatch
from ray_app.methods.objectives.cross_entropy import CrossEntropy
from ray_app.methods.objectives.early_learning import EarlyLearning
from ray_app.methods.objectives.gradient_noise import GradientNoise
from ray_app.testing.objectives import CLASSES, DIM, TinyModel, check_objective

VARIANTS: Mapping[str, list[dict[str, Any]]] = {
    "cross_entropy": [{"label_smoothing": 0.1}],
    "early_learning": [{"strength": 7.0, "momentum": 0.9}],
    "masked_autoencoding": [{"mask_ratio": 0.5}],
    "pseudo_label": [{"threshold": 0.5}, {"soft": True}],
    "self_distill": [{"hidden": "pooled"}],
}


# The suite's model reads pixels; what these promise is checked in their own tests.
OF_TEXTS = {"masked_lm"}


def build(name: str, options: Mapping[str, Any]) -> Objective:
    supplied = {"dim": DIM, "num_classes": CLASSES, "teacher": TinyModel(seed=7)}
    made: Objective = registry.build("objectives", name, options, **supplied)
    return made


def variants() -> list[Any]:
    return [
        pytest.param(name, options, id=f"{name}{options or ''}")
        for name in registry.names("objectives")
        if name not in OF_TEXTS
        for options in [{}, *VARIANTS.get(name, [])]
    ]


@pytest.mark.parametrize(("name", "options"), variants())
def test_objectives(name: str, options: dict[str, Any]) -> None:
    # A contrastive loss compares rows with each other; a row more is another task.
    check_objective(partial(build, name, options), weighted=name != "in_batch_contrastive")


def test_composed() -> None:
    def make() -> Objective:
        names = ("early_learning", "self_distill", "gradient_noise")
        return Composed(parts={name: build(name, {}) for name in names}, weights=dict.fromkeys(names, 0.7))

    check_objective(make)


class DrawsFromTheGlobalGenerator(CrossEntropy):
    def loss(self, model, batch, step, generator):
        losses = super().loss(model, batch, step, generator)
        return {**losses, "loss": losses["loss"] * torch.rand(())}


class IgnoresWeights(CrossEntropy):
    def loss(self, model, batch, step, generator):
        return super().loss(model, TrainBatch(batch.inputs, batch.labels), step, generator)


class DividesByNoWeight(CrossEntropy):
    def loss(self, model, batch, step, generator):
        losses = super().loss(model, batch, step, generator)
        if batch.sample_weight is not None:
            losses["loss"] = losses["loss"] * batch.sample_weight.sum() / batch.sample_weight.sum()
        return losses


class StopsTheGradient(CrossEntropy):
    def loss(self, model, batch, step, generator):
        losses = super().loss(model, batch, step, generator)
        return {**losses, "loss": losses["loss"].detach() + model.head.weight.sum() * 0}


class FailsOnOneRow(CrossEntropy):
    def loss(self, model, batch, step, generator):
        losses = super().loss(model, batch, step, generator)
        return {**losses, "loss": losses["loss"] + 0 * model(batch.inputs, {"logits"}).logits.std(0).sum()}


class HidesItsMemory(EarlyLearning):
    def __init__(self) -> None:
        super().__init__(num_classes=CLASSES)
        self.register_buffer("targets", self.targets, persistent=False)


class CountsItsStepsForItself(GradientNoise):
    count = 0

    def before_step(self, model, step, generator):
        super().before_step(model, self.count, generator)
        self.count += 1


class WritesIntoItsInput(CrossEntropy):
    def loss(self, model, batch, step, generator):
        batch.inputs.mul_(0.5)
        return super().loss(model, batch, step, generator)


class TrainsTwice(CrossEntropy):
    def parameter_groups(self, model):
        yield from super().parameter_groups(model)
        yield from super().parameter_groups(model)


class ReturnsRows(CrossEntropy):
    def loss(self, model, batch, step, generator) -> dict[str, Tensor]:
        losses = super().loss(model, batch, step, generator)
        return {**losses, "each": losses["loss"].expand(2)}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (DrawsFromTheGlobalGenerator, "global generator must not be used"),
        (FailsOnOneRow, "loss must be finite for 1 rows"),
        (IgnoresWeights, "a row of weight 0 must not matter"),
        (DividesByNoWeight, "no weight at all must give a finite loss"),
        (StopsTheGradient, "gradients must reach the model"),
        (HidesItsMemory, "a state through safetensors must give equal losses"),
        (CountsItsStepsForItself, "a state through safetensors must give equal steps"),
        (WritesIntoItsInput, "inputs must not be written to"),
        (TrainsTwice, "a parameter must be in one group only"),
        (ReturnsRows, r"each must be a scalar, got \[2\]"),
    ],
)
@pytest.mark.filterwarnings("ignore:std")
def test_broken_objectives_are_refused(make: Callable[[], Objective], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_objective(make)
