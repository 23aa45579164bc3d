"""LoRA against sums and compositions written out."""

import pytest
import torch
from torch import Tensor, nn

from ray_app.methods.adapters.lora import LoRA
from ray_app.testing.adapters import pixels, traps


def matrices(model: nn.Module, layer: str) -> tuple[Tensor, Tensor]:
    return tuple(model.get_parameter(f"{layer}.lora_{part}.lora.weight").detach() for part in "AB")  # type: ignore[return-value]


def attached_with(r: int, alpha: float | None) -> tuple[LoRA, nn.Module]:
    adapter = LoRA(r=r, alpha=alpha)
    model = adapter.attach(traps())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=generator)
    return adapter, model


@pytest.mark.parametrize(("r", "alpha", "scale"), [(2, None, 1.0), (3, 6.0, 2.0)])
def test_merged_linear_weights(r: int, alpha: float | None, scale: float) -> None:
    adapter, model = attached_with(r, alpha)
    expected = {}
    for layer in ("mlp.0", "mlp.2", "attn.proj"):
        a, b = matrices(model, layer)
        assert a.shape[0] == b.shape[1] == r
        expected[layer] = traps().get_parameter(f"{layer}.weight").detach() + scale * b @ a
    merged = adapter.merge(model)  # type: ignore[arg-type]
    for layer, weight in expected.items():
        torch.testing.assert_close(merged.get_parameter(f"{layer}.weight").detach(), weight)


def test_a_merged_convolution_is_the_sum_of_two_paths() -> None:
    adapter, model = attached_with(2, None)
    a, b = matrices(model, "stem")
    x = pixels()
    stem = traps().get_submodule("stem")
    expected = stem(x) + nn.functional.conv2d(nn.functional.conv2d(x, a, padding=1), b)
    torch.testing.assert_close(adapter.merge(model).get_submodule("stem")(x), expected)  # type: ignore[arg-type]


def test_what_cannot_take_it_is_passed_by_or_refused() -> None:
    model = LoRA().attach(traps())
    adapted = {name.partition(".lora_A")[0] for name in model.state_dict() if "lora_A" in name}
    assert adapted == {"stem", "point", "attn.proj", "mlp.0", "mlp.2"}
    for layer, reason in {
        "grouped": "is a grouped convolution",
        "depthwise": "is a grouped convolution",
        "tied.0": "shares its weight",
        "twice": "shares its weight",  # it is registered under two names
    }.items():
        with pytest.raises(ValueError, match=f"lora: targets name .*{reason}.*; leave it out, or use svfit"):
            LoRA(targets=[layer]).attach(traps())


def test_nothing_of_peft_is_left_and_the_class_of_layers_is_theirs() -> None:
    adapter, model = attached_with(2, None)
    merged = adapter.merge(model)  # type: ignore[arg-type]
    assert not hasattr(merged, "peft_config")
    assert [type(m) for m in merged.modules()] == [type(m) for m in traps().modules()]


def test_layers_that_are_read_without_a_call_are_passed_by() -> None:
    model = traps()
    model.attention = nn.MultiheadAttention(8, 2)
    attached = LoRA().attach(model)
    assert not any("attention.out_proj.lora" in name for name in attached.state_dict())
    fresh = traps()
    fresh.attention = nn.MultiheadAttention(8, 2)
    with pytest.raises(ValueError, match="within a MultiheadAttention"):
        LoRA(targets=["attention.out_proj"]).attach(fresh)


def test_the_seed_decides_and_the_global_generator_does_not() -> None:
    def down(seed: int) -> Tensor:
        return matrices(LoRA(seed=seed).attach(traps()), "mlp.0")[0]

    first = down(0)
    torch.rand(5)
    assert torch.equal(first, down(0))
    assert not torch.equal(first, down(1))


def test_matrices_are_float32_in_a_model_of_two_bytes() -> None:
    model = LoRA(r=2).attach(traps().to(torch.bfloat16))
    assert {tensor.dtype for tensor in matrices(model, "mlp.0")} == {torch.float32}
    assert model.get_parameter("mlp.0.base_layer.weight").dtype == torch.bfloat16
    assert torch.isfinite(model(pixels(), {"logits"}).logits).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r must be >= 1, got 0"),
        ({"alpha": 0.0}, "alpha must be > 0, got 0.0; leave it out"),
        ({"dropout": 1.0}, "dropout must be in 0..1, below 1, got 1.0"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRA(**options)  # type: ignore[arg-type]
