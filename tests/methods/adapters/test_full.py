"""Full fine-tuning, the linear probe and BitFit: what trains, by name."""

import torch

from ray_app.methods.adapters.full import Full
from ray_app.testing.adapters import pixels, traps


def test_everything_trains_and_statistics_follow() -> None:
    model = Full().attach(traps()).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    before = model.get_buffer("norm.running_mean").clone()
    model(pixels())
    assert not torch.equal(model.get_buffer("norm.running_mean"), before)


def test_what_was_frozen_before_is_frozen_again_after_it() -> None:
    model = traps()
    model.get_parameter("position").requires_grad_(requires_grad=False)
    adapter = Full()
    assert adapter.attach(model).get_parameter("position").requires_grad
    assert not adapter.merge(model).get_parameter("position").requires_grad
