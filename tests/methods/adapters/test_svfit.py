"""SVFit against NumPy's singular values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ray_app.methods.adapters.svfit import SVFit
from ray_app.methods.encoders import Encoder
from ray_app.testing.adapters import traps


def shifts(model: Encoder, layer: str) -> nn.Parameter:
    shift = model.get_parameter(f"{layer}.parametrizations.weight.0.shift")
    assert isinstance(shift, nn.Parameter)
    return shift


@pytest.mark.parametrize("layer", ["stem", "grouped", "depthwise", "point", "twice", "mlp.0"])
@settings(derandomize=True, deadline=None, max_examples=5)
@given(rank=st.integers(1, 12), seed=st.integers(0, 3))
def test_merged_weights_have_the_moved_singular_values(layer: str, rank: int, seed: int) -> None:
    plain = dict(traps().named_parameters())[f"{layer}.weight"].detach().double().flatten(1).numpy()
    u, s, v = np.linalg.svd(plain, full_matrices=False)
    r = min(rank, len(s))
    moved = np.random.default_rng(seed).normal(size=r)
    adapter = SVFit(rank=rank)
    model = adapter.attach(traps())
    with torch.no_grad():
        shifts(model, layer).copy_(torch.from_numpy(moved))
    got = dict(adapter.merge(model).named_parameters())[f"{layer}.weight"].detach()
    s[:r] += moved
    np.testing.assert_allclose(got.flatten(1).numpy(), u * s @ v, atol=1e-5)


def test_energy_keeps_as_many_as_are_needed() -> None:
    model = traps()
    with torch.no_grad():
        model.get_parameter("point.weight").copy_(
            torch.diag(torch.tensor([3.0, 2, 1, 0.5, 0, 0, 0, 0])).view(8, 8, 1, 1)
        )
    # Squares 9, 4, 1, 0.25 of 14.25: shares 0.632, 0.912, 0.982, 1.
    for energy, expected in {0.5: 1, 0.9: 2, 0.92: 3, 0.99: 4, 1.0: 4}.items():
        attached = SVFit(energy=energy, targets=["point"]).attach(model)
        assert len(shifts(attached, "point")) == expected
        SVFit().merge(attached)
    assert len(shifts(SVFit(targets=["point"]).attach(model), "point")) == 8


def test_the_smallest_and_random_ones_are_others() -> None:
    def moved(**options: object) -> torch.Tensor:
        adapter = SVFit(rank=2, targets=["twice"], **options)  # type: ignore[arg-type]
        model = adapter.attach(traps())
        with torch.no_grad():
            shifts(model, "twice").fill_(1.0)
        merged = adapter.merge(model).get_parameter("twice.weight").detach().double()
        u, _, vh = torch.linalg.svd(traps().get_parameter("twice.weight").detach().double())
        # How far each singular value moved.
        return ((u.T @ (merged - traps().get_parameter("twice.weight").detach()) @ vh.T).diagonal()).round(
            decimals=4
        )

    assert moved(keep="top").tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert moved(keep="bottom").tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    drawn = moved(keep="random", seed=1)
    assert drawn.sum() == 2
    assert torch.equal(drawn, moved(keep="random", seed=1))
    assert any(not torch.equal(drawn, moved(keep="random", seed=seed)) for seed in range(2, 6))


def test_only_the_values_and_the_classifier_train() -> None:
    model = SVFit(rank=3).attach(traps())
    marked = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in marked if not name.endswith(".shift")} == {"head.weight", "head.bias"}
    assert (
        sum(model.get_parameter(n).numel() for n in marked if n.endswith(".shift")) == 3 * 9
    )  # weights; tied ones once


def test_averaging_candidates_is_averaging_their_values() -> None:
    def candidate(value: float) -> dict[str, torch.Tensor]:
        adapter = SVFit()
        model = adapter.attach(traps())
        with torch.no_grad():
            shifts(model, "mlp.0").fill_(value)
        return adapter.merge(model).state_dict()

    low, middle, high = candidate(-0.4), candidate(0.1), candidate(0.6)
    for name, value in middle.items():
        torch.testing.assert_close((low[name] + high[name]) / 2, value, check_dtype=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be >= 1, got 0; leave it out"),
        ({"energy": 1.5}, "energy must be in 0..1, got 1.5"),
        ({"rank": 2, "energy": 0.9}, "both rank=2 and energy=0.9; give one"),
        ({"keep": "first"}, "keep must be top, bottom or random, got 'first'"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SVFit(**options)  # type: ignore[arg-type]


def test_unknown_targets_get_their_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"svfit: targets name 'pointe', .*near: point.*the first layers: stem"
    ):
        SVFit(targets=["stem", "pointe"]).attach(traps())
    # Whole parts of a name, and never the classifier.
    with pytest.raises(ValueError, match="'tem'"):
        SVFit(targets=["tem"]).attach(traps())
    with pytest.raises(ValueError, match="'head'"):
        SVFit(targets=["head"]).attach(traps())
