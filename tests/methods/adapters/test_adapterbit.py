"""AdapterBit against its formula on each kind of block."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ray_app import registry
from ray_app.methods.adapters.adapterbit import AdapterBit
from ray_app.methods.encoders import Encoder
from ray_app.testing.adapters import pixels, traps
from tests.bert import tiny_bert


def drawn(model: Encoder) -> Encoder:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("adapterbit"):
                parameter.normal_(generator=generator)
    return model.eval()


def added(model: Encoder, which: int, x: Tensor) -> Tensor:
    state = {name.removeprefix(f"adapterbit.{which}."): value for name, value in model.state_dict().items()}
    hidden = nn.functional.gelu(x @ state["down.weight"].T + state["down.bias"])
    return 0.1 * (hidden @ state["up.weight"].T + state["up.bias"])


def test_after_the_projection_and_beside_the_feed_forward_block() -> None:
    model, plain = drawn(AdapterBit().attach(traps())), traps()
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    y = plain.get_submodule("attn.proj")(x)
    torch.testing.assert_close(model.get_submodule("attn.proj")(x), y + added(model, 0, y))
    expected = plain.get_submodule("mlp")(x) + added(model, 1, x)
    torch.testing.assert_close(model.get_submodule("mlp")(x), expected)


def test_every_block_of_a_vision_transformer_has_two() -> None:
    model = registry.build("encoders", "timm", {"model": "test_vit", "num_classes": 3})
    blocks, width = len(model.net.blocks), model.dim
    AdapterBit(ratio=0.25).attach(model)
    assert len(model.adapterbit) == 2 * blocks
    assert {part.down.weight.shape for part in model.adapterbit} == {(width // 4, width)}


def test_a_block_of_bert_adds_it_before_the_norm(tmp_path: Path) -> None:
    def encoder() -> Encoder:
        made: Encoder = registry.build(
            "encoders", "transformers", {"model": str(tiny_bert(tmp_path)), "num_classes": 3}
        )
        return made.eval()

    model, plain = drawn(AdapterBit().attach(encoder())), encoder()
    assert len(list(model.get_submodule("adapterbit").children())) == 4
    # The first block has the adapters 0 (beside) and 1 (after): in the order of its modules.
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    own, block = (m.get_submodule("net.encoder.layer.0") for m in (model, plain))
    inner = block.intermediate(x)
    expected = block.output.LayerNorm(block.output.dense(inner) + x + added(model, 0, x))
    torch.testing.assert_close(own.output(own.intermediate(x), x), expected)
    y = block.attention.output.dense(x)
    torch.testing.assert_close(own.attention.output.dense(x), y + added(model, 1, y))


def test_what_trains() -> None:
    for biases in (True, False):
        model = AdapterBit(biases=biases).attach(traps())
        trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert {"head.weight", "head.bias", "adapterbit.0.up.weight"} < trains
        assert ("twice.bias" in trains) is biases
        assert "twice.weight" not in trains


def test_it_is_served_attached_and_says_so() -> None:
    model = drawn(AdapterBit().attach(traps()))
    answers = model(pixels(), {"logits"}).logits
    with pytest.raises(ValueError, match=r"adapterbit: is not linear, .*keep it attached, or choose .*lora"):
        AdapterBit().merge(model)
    assert torch.equal(model(pixels(), {"logits"}).logits, answers)


@pytest.mark.parametrize(
    ("options", "message"), [({"ratio": 0}, "ratio must"), ({"scale": -1}, "scale must")]
)
def test_wrong_options_are_one_line(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"adapterbit: {message}.*is the paper's"):
        AdapterBit(**options)  # type: ignore[arg-type]
