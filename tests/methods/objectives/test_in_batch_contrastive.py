"""The contrastive loss against the formula written out, and what it needs."""

import math

import pytest
import torch
from torch import nn

from ray_app import registry
from ray_app.methods._views import Views
from ray_app.methods.encoders import Encoder, Features
from ray_app.methods.objectives import TrainBatch


class Flat(Encoder):
    """Pixels as features."""

    modality = "image"
    dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def preprocess(self, batch):
        raise AssertionError("not used")

    def forward(self, inputs, want=()):
        return Features(pooled=inputs.flatten(1) * self.scale)

    def portable(self):
        raise AssertionError("not used")


def objective(**options: float):
    return registry.build("objectives", "in_batch_contrastive", {"dim": 16, "projection": 8, **options})


def test_the_loss_is_the_formula() -> None:
    pixels = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    made = objective(temperature=0.3)
    losses = made.loss(Flat(), TrainBatch(pixels), 0, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    views = [made.views(pixels, generator), made.views(pixels, generator)]
    z = [nn.functional.normalize(made.project(torch.relu(made.hidden(v.flatten(1)))), dim=1) for v in views]
    everything = torch.cat(z)
    total = 0.0
    for i in range(10):
        similar = [math.exp((everything[i] @ everything[j]).item() / 0.3) for j in range(10)]
        total -= math.log(similar[(i + 5) % 10] / (sum(similar) - similar[i]))
    assert losses["loss"].item() == pytest.approx(total / 10, rel=1e-5)


def test_equal_views_are_matched() -> None:
    made = objective(noise=0.0, shift=0.0, erase=0.0)
    pixels = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    assert made.loss(Flat(), TrainBatch(pixels), 0, torch.Generator())["matched"].item() == 1.0


def test_the_same_seed_gives_the_same_start_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = objective(), objective(), objective(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.project.weight, second.project.weight)
    assert not torch.equal(first.project.weight, other.project.weight)


def test_a_temperature_of_zero_is_refused() -> None:
    from ray_app.errors import SpecError

    with pytest.raises(SpecError, match="temperature must be > 0, got 0"):
        objective(temperature=0)


def test_views_move_pixels_where_they_say() -> None:
    pixels = torch.zeros(64, 1, 9, 9, dtype=torch.uint8)
    pixels[:, :, 4, 4] = 255
    moved = Views(shift=2 / 9)(pixels, torch.Generator().manual_seed(0))
    rows = (moved.sum((1, 3)) * torch.arange(9)).sum(1) / moved.sum((1, 2, 3))
    # The bright pixel stays within two pixels of the middle, and goes nearly that far both ways.
    assert 1.9 < rows.min().item() < 2.6
    assert 5.4 < rows.max().item() < 6.1
    assert torch.equal(Views()(pixels, torch.Generator()), pixels / 255)
