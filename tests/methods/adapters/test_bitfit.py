"""BitFit: biases by name."""

import pytest
from torch import nn

from ray_app import registry
from ray_app.methods.adapters.bitfit import BitFit
from ray_app.testing.adapters import traps


def test_biases_and_the_classifier_train() -> None:
    model = BitFit().attach(traps())
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {name for name, _ in model.named_parameters() if name.endswith(".bias")} | {"head.weight"}
    assert trains == expected
    assert {"norm.bias", "last.bias", "twice.bias", "grouped.bias"} < trains


def test_biases_of_other_names_are_biases() -> None:
    model = traps()
    model.attention = nn.MultiheadAttention(8, 2)
    model.attn.q_bias = nn.Parameter(model.position.new_zeros(8))
    BitFit().attach(model)
    assert model.attention.in_proj_bias.requires_grad
    assert model.attn.q_bias.requires_grad
    assert not model.attention.in_proj_weight.requires_grad


def test_a_network_without_biases_is_refused() -> None:
    model = registry.build("encoders", "timm", {"model": "test_vit", "num_classes": 3})
    for module in model.modules():
        if isinstance(getattr(module, "bias", None), nn.Parameter) and module is not model.classifier:
            module.bias = None
    with pytest.raises(ValueError, match="bitfit: the model has no biases; use lora or svfit"):
        BitFit().attach(model)
