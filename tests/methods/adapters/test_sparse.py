"""Static sparsity: exact shares, exact zeros, and zeros that learn afterwards."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ray_app.methods.adapters.full import Full
from ray_app.methods.adapters.sparse import Sparse
from ray_app.methods.encoders import Encoder
from ray_app.testing.adapters import pixels, traps

MASKED = {"stem", "grouped", "depthwise", "point", "twice", "tied.0", "tied.1", "attn.proj", "mlp.0", "mlp.2"}


def steps(model: Encoder, n: int = 3) -> None:
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1
    )
    for _ in range(n):
        loss = nn.functional.cross_entropy(model(pixels(), {"logits"}).logits, torch.arange(12) % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@settings(derandomize=True, deadline=None, max_examples=8)
@given(sparsity=st.floats(0, 0.99), seed=st.integers(0, 9))
def test_each_matrix_has_its_share_of_zeros(sparsity: float, seed: int) -> None:
    adapter = Sparse(sparsity=sparsity, seed=seed)
    merged = adapter.merge(adapter.attach(traps()))
    for name, parameter in traps().named_parameters():
        value = merged.get_parameter(name)
        if name.removesuffix(".weight") in MASKED:
            assert int((value == 0).sum()) == round(sparsity * value.numel())
            assert torch.equal(value[value != 0], parameter[value != 0])
        else:
            assert torch.equal(value, parameter)


def test_zeros_stay_zero_under_weight_decay_and_the_rest_learns() -> None:
    adapter = Sparse(sparsity=0.5)
    model = adapter.attach(traps())
    zeros = {name: model.get_submodule(name).weight == 0 for name in MASKED}
    steps(model)
    merged = adapter.merge(model)
    for name, was in zeros.items():
        assert (merged.get_parameter(f"{name}.weight")[was] == 0).all()
        assert (
            merged.get_parameter(f"{name}.weight")[~was] != traps().get_parameter(f"{name}.weight")[~was]
        ).all()


def test_masked_weights_get_no_gradient() -> None:
    model = Sparse(sparsity=0.5, targets=["mlp.0"]).attach(traps())
    model(pixels(), {"logits"}).logits.sum().backward()
    original = model.get_parameter("mlp.0.parametrizations.weight.original")
    mask = model.get_buffer("mlp.0.parametrizations.weight.0.mask")
    assert original.grad is not None
    assert (original.grad[~mask] == 0).all()
    assert (original.grad[mask] != 0).any()


def test_dense_fine_tuning_after_it_revives_the_zeros() -> None:
    adapter = Sparse(sparsity=0.75)
    model = adapter.attach(traps())
    steps(model)
    dense = Full().attach(adapter.merge(model))
    was = dense.get_parameter("mlp.0.weight") == 0
    assert was.sum() == 96
    steps(dense)
    assert (dense.get_parameter("mlp.0.weight")[was] != 0).all()


def test_a_share_of_all_or_less_than_none_is_refused() -> None:
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match=f"sparse: sparsity must be in 0..1, below 1, got {share}"):
            Sparse(sparsity=share)
