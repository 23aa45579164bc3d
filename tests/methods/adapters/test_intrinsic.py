"""Random subspaces against projections written out as matrices."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard
from torch import Tensor, nn

from ray_app.methods.adapters.intrinsic import Intrinsic, walsh_hadamard
from ray_app.methods.encoders import Encoder
from ray_app.testing.adapters import traps


@settings(derandomize=True, deadline=None, max_examples=25)
@given(log=st.integers(0, 7), rows=st.integers(1, 4), seed=st.integers(0, 100))
def test_walsh_hadamard_is_scipys_matrix(log: int, rows: int, seed: int) -> None:
    x = torch.randn(rows, 2**log, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = x.numpy() @ hadamard(2**log)
    np.testing.assert_allclose(walsh_hadamard(x).numpy(), expected, atol=1e-10)


def moved_by(theta: Tensor, **options: Any) -> Tensor:
    """How far each weight moves [D], all tensors in a row."""
    adapter = Intrinsic(d=len(theta), **options)
    model = adapter.attach(traps())
    with torch.no_grad():
        model.get_parameter("subspace.theta").copy_(theta)
    merged = adapter.merge(model)
    return torch.cat(
        [(a - b).detach().flatten() for a, b in zip(merged.parameters(), traps().parameters(), strict=True)]
    )


def matrix(d: int, **options: Any) -> Tensor:
    """P [D, d], a column for each unit vector."""
    return torch.stack([moved_by(unit, **options) for unit in torch.eye(d)], 1)


@pytest.mark.parametrize("projection", ["dense", "fastfood"])
@pytest.mark.parametrize("d", [1, 5, 16])
def test_the_projection_is_linear_with_columns_of_length_one(projection: str, d: int) -> None:
    P = matrix(d, projection=projection)
    theta = torch.randn(d, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(moved_by(theta, projection=projection), P @ theta, rtol=1e-3, atol=1e-5)
    lengths = P.norm(dim=0)
    assert lengths.min() > 0.85
    assert lengths.max() < 1.15
    # Nearly orthogonal: random vectors in many dimensions.
    assert (P.T @ P - torch.diag(lengths.square())).abs().max() < 0.25
    assert not torch.equal(P, matrix(d, projection=projection, seed=1))


def test_fastfood_is_the_product_of_its_factors() -> None:
    model = Intrinsic(d=6).attach(traps())
    projection = model.get_submodule("mlp.0.parametrizations.weight.0")
    theta = torch.randn(6, generator=torch.Generator().manual_seed(2))
    H = torch.from_numpy(hadamard(8)).float()
    expected = []
    for signs, order, normal in zip(projection.signs, projection.order, projection.normal, strict=True):
        permuted = torch.eye(8)[order.long()]
        P = H @ torch.diag(normal) @ permuted @ H @ torch.diag(signs.float())
        expected.append(P[:, :6] @ theta)
    got = projection.project(theta)  # type: ignore[operator]
    torch.testing.assert_close(got, torch.cat(expected)[: len(got)])
    # Sorted, every order is that of the positions.
    assert (projection.order.sort(1).values == torch.arange(8)).all()


def test_rows_of_fastfood_look_normal() -> None:
    P = matrix(16, projection="fastfood") * sum(p.numel() for p in traps().parameters()) ** 0.5
    entries = P.flatten()
    assert abs(float(entries.mean())) < 0.05
    assert abs(float(entries.square().mean()) - 1) < 0.1


def test_each_layer_has_its_factor() -> None:
    count = len({name.rpartition(".")[0] for name, _ in traps().named_parameters()})
    adapter = Intrinsic(d=count + 4, structure_aware=True)
    model = adapter.attach(traps())
    assert model.get_parameter("subspace.factors").tolist() == [1.0] * count
    assert len(model.get_parameter("subspace.theta")) == 4
    with torch.no_grad():
        model.get_parameter("subspace.theta").fill_(1.0)
    before = {name: value.clone() for name, value in _used(model).items()}
    plain = dict(traps().named_parameters())
    layer = model.get_submodule("mlp.0.parametrizations.weight.0").layer
    with torch.no_grad():
        model.get_parameter("subspace.factors")[layer] = 3.0
    for name, value in _used(model).items():
        factor = 3.0 if name.startswith("mlp.0.") else 1.0
        expected = plain[name] + factor * (before[name] - plain[name])
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def _used(model: Encoder) -> dict[str, Tensor]:
    """What the forward pass reads, by plain name."""
    found = {}
    for name, _ in traps().named_parameters():
        holder, _, key = name.rpartition(".")
        found[name] = getattr(model.get_submodule(holder), key).detach()
    return found


def test_d_numbers_train_and_nothing_else() -> None:
    for options, expected in (({}, 40), ({"structure_aware": True}, 40), ({"classifier": "full"}, 40 + 27)):
        model = Intrinsic(d=40, **options).attach(traps())  # type: ignore[arg-type]
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
    moved = Intrinsic(d=4, classifier="full").attach(traps())
    assert isinstance(moved.classifier, nn.Linear)
    assert not hasattr(moved.classifier, "parametrizations")


def test_fastfood_stores_no_matrix() -> None:
    model = Intrinsic(d=1000).attach(traps())
    numbers = sum(buffer.numel() for name, buffer in model.named_buffers() if "parametrizations" in name)
    total = sum(p.numel() for p in traps().parameters())
    tensors = len(list(traps().parameters()))
    assert numbers <= 3 * (total + 1024 * tensors)
    assert not any("signs" in name or "normal" in name for name in model.state_dict())


def test_what_is_too_little_or_too_much_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"intrinsic: d=5 leaves nothing beside .* layers; give at least 1\d"
    ):
        Intrinsic(d=5, structure_aware=True).attach(traps())
    with pytest.raises(ValueError, match=r"dense projection of 2000000 numbers .* use projection: fastfood"):
        Intrinsic(d=2_000_000, projection="dense").attach(traps())
    for make, message in (
        (partial(Intrinsic, d=0), "d must be >= 1, got 0"),
        (partial(Intrinsic, projection="sparse"), "projection must be fastfood or dense, got 'sparse'"),
        (partial(Intrinsic, classifier="none"), "classifier must be subspace or full, got 'none'"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
