"""Gradient noise: its schedule, its size, and when it comes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.methods.objectives import Composed
from ray_app.methods.objectives.cross_entropy import CrossEntropy
from ray_app.methods.objectives.gradient_noise import GradientNoise
from ray_app.spec.train import Train
from ray_app.testing.objectives import TinyModel
from ray_app.tune.start import fine_tune
from ray_app.tune.training import Rows, train


@given(st.floats(1e-3, 10), st.floats(0, 2), st.integers(0, 10**6))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_the_variance_falls_as_the_formula_says(eta: float, gamma: float, step: int) -> None:
    noise = GradientNoise(eta=eta, gamma=gamma)
    assert noise.sigma(step) ** 2 == pytest.approx(eta * (1 + step) ** -gamma, rel=1e-9)
    assert noise.sigma(step + 1) <= noise.sigma(step)


def test_the_noise_added_is_normal_with_that_variance() -> None:
    model = torch.nn.Linear(200, 200, bias=False)
    model.weight.grad = torch.full_like(model.weight, 3.0)
    GradientNoise(eta=0.3).before_step(model, 9, torch.Generator().manual_seed(0))
    added = (model.weight.grad - 3.0) / (0.3 / 10**0.55) ** 0.5
    # 40,000 draws: the mean is off by 0.005, the variance by 0.007, as a rule.
    assert abs(added.mean().item()) < 0.03
    assert abs(added.var().item() - 1) < 0.04
    assert abs(added.pow(4).mean().item() - 3) < 0.3


def test_what_has_no_gradient_gets_none_and_no_noise_changes_nothing() -> None:
    model = TinyModel()
    model.patches.weight.grad = torch.zeros_like(model.patches.weight)
    before = torch.Generator().manual_seed(0).get_state()
    generator = torch.Generator().manual_seed(0)
    GradientNoise(eta=0).before_step(model, 0, generator)
    assert torch.equal(generator.get_state(), before)
    assert not model.patches.weight.grad.any()
    GradientNoise().before_step(model, 0, generator)
    assert model.patches.weight.grad.any()
    assert model.head.weight.grad is None


@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_comes_once_a_step_after_clipping(accumulate: int) -> None:
    steps: list[int] = []
    norms: list[float] = []

    class Watched(GradientNoise):
        def before_step(self, model, step, generator):
            steps.append(step)
            norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())
            super().before_step(model, step, generator)

    model = TinyModel()
    data = Rows(torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3)
    parts = {"cross_entropy": CrossEntropy(), "gradient_noise": Watched(eta=100.0)}
    how = Train(epochs=2, batch_size=4, accumulate=accumulate, clip=0.01)
    train(model, Composed(parts=parts, weights=dict.fromkeys(parts, 1.0)), data, how)
    assert steps == list(range(2 * 6 // accumulate))
    assert max(norms) <= 0.0101  # clipped, noise not yet there


def test_training_moves_by_the_noise() -> None:
    data = Rows(torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3)

    def moved(eta: float) -> float:
        model = TinyModel()
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        how = {
            "epochs": 1,
            "batch_size": 12,
            "optimizer": "sgd",
            "lr": 0.1,
            "weight_decay": 0,
            "clip": 1e-6,
            "schedule": "constant",
            "warmup": 0,
            "objective": ["cross_entropy", {"name": "gradient_noise", "eta": eta}],
        }
        fine_tune(model, data, Train.model_validate(how))
        return (torch.cat([p.detach().flatten() for p in model.parameters()]) - before).square().mean().item()

    assert moved(0.0) < 1e-12
    # One step: the mean square is lr^2 eta, give or take what 67 draws make of it.
    assert 0.01 * 4.0 * 0.5 < moved(4.0) < 0.01 * 4.0 * 1.7


def test_a_negative_variance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eta must be >= 0, got -0\.1; try 0\.3"):
        GradientNoise(eta=-0.1)
    with pytest.raises(ValueError, match="gamma must be >= 0, got -1"):
        GradientNoise(gamma=-1)
