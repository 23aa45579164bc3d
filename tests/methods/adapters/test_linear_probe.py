"""The linear probe trains one layer of a network that stands still."""

import torch

from ray_app.methods.adapters.linear_probe import LinearProbe
from ray_app.testing.adapters import pixels, traps


def test_the_classifier_trains_and_nothing_else() -> None:
    model = LinearProbe().attach(traps())
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trains == {"head.weight", "head.bias"}


def test_in_train_mode_the_network_computes_what_it_computes_in_eval_mode() -> None:
    model = LinearProbe().attach(traps())
    x = pixels()
    expected = traps()(x).pooled
    model.train()
    # Batch statistics would give other features, and running ones would move.
    torch.testing.assert_close(model(x).pooled, expected)
    torch.testing.assert_close(model(x[:1]).pooled, expected[:1])
