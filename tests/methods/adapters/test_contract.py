"""Every registered adapter keeps the contract, on networks of every kind."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_app import registry
from ray_app.methods.adapters import Adapter
from ray_app.methods.encoders import Encoder
from ray_app.testing.adapters import check_adapter, pixels, traps
from tests.bert import tiny_bert
from tests.causal import tiny_model

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "lora": [{"r": 3, "alpha": 6.0, "dropout": 0.2}],
    "svfit": [{"rank": 3}, {"energy": 0.9}, {"rank": 2, "keep": "random"}],
    "sparse": [{"sparsity": 0.5, "targets": ["point", "twice"]}],
    "adapterbit": [{"biases": False}],
    "intrinsic": [
        {"d": 12, "projection": "dense"},
        {"d": 40, "structure_aware": True},
        {"d": 9, "classifier": "full"},
    ],
}
# A mask, and fresh weights before the classifier, change the answers on purpose.
OTHER_START = {"sparse", "nmtune"}
NAMES = registry.names("adapters")
BLOCKS_ONLY = {"adapterbit"}


def small(name: str) -> Adapter:
    adapter: Adapter = registry.build("adapters", name, {"d": 90} if name == "intrinsic" else {})
    return adapter


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in NAMES for options in [{}, *OPTIONS.get(name, [])]],
    ids=str,
)
def test_on_what_adapters_trip_over(name: str, options: dict[str, Any]) -> None:
    check_adapter(partial(registry.build, "adapters", name, options), same_start=name not in OTHER_START)


def _timm(model: str, size: int) -> Encoder:
    encoder: Encoder = registry.build(
        "encoders", "timm", {"model": model, "num_classes": 3, "image_size": size}
    )
    return encoder.eval()


@pytest.mark.parametrize(
    ("model", "size"), [("test_resnet", 32), ("test_efficientnet", 32), ("test_vit", 160)]
)
@pytest.mark.parametrize("name", NAMES)
def test_on_timm(name: str, model: str, size: int) -> None:
    inputs = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    if name in BLOCKS_ONLY and model != "test_vit":
        with pytest.raises(
            ValueError, match=r"adapterbit: found no transformer blocks .*; use lora or svfit"
        ):
            small(name).attach(_timm(model, size))
        return
    check_adapter(
        partial(small, name), partial(_timm, model, size), inputs, same_start=name not in OTHER_START
    )


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its layers are transformers' Conv1D: linear, the weight transposed."""
    return tiny_model(tmp_path_factory.mktemp("gpt"), ["the cat sat on the mat", "a dog"])


def _text(folder: Path) -> Encoder:
    encoder: Encoder = registry.build("encoders", "transformers", {"model": str(folder), "num_classes": 3})
    return encoder.eval()


@pytest.mark.parametrize("kind", ["bert", "gpt"])
@pytest.mark.parametrize("name", NAMES)
def test_on_transformers(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    if name in BLOCKS_ONLY and kind == "gpt":
        with pytest.raises(ValueError, match="adapterbit: found no transformer blocks"):
            small(name).attach(_text(folder))
        return
    texts = np.array(["the cat sat", "a dog", "the dog sat on the mat", "a", "cat s", "mat", "on", "the"])
    inputs = _text(folder).preprocess({"text": texts.astype(object)})
    check_adapter(partial(small, name), partial(_text, folder), inputs, same_start=name not in OTHER_START)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_without_classifier(name: str) -> None:
    def model() -> Encoder:
        encoder: Encoder = registry.build("encoders", "timm", {"model": "test_vit", "num_classes": 0})
        return encoder

    if name in ("linear_probe", "nmtune"):
        with pytest.raises(ValueError, match=f"{name}: the model has no classifier .*; give it num_classes"):
            small(name).attach(model())
    else:
        assert any(parameter.requires_grad for parameter in small(name).attach(model()).parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_that_is_no_single_layer_is_never_left_frozen(name: str) -> None:
    class TwoHeads(type(traps())):  # type: ignore[misc]
        @property
        def classifier(self) -> None:
            return None

    model = TwoHeads()
    if name in ("full", "sparse", "intrinsic"):  # they train all of the network
        assert small(name).attach(model) is model
        return
    marked = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(ValueError, match=f"{name}: the model"):
        small(name).attach(model)
    assert [parameter.requires_grad for parameter in model.parameters()] == marked


def test_a_refused_attach_leaves_the_model_as_it_was() -> None:
    model = traps()
    torch.nn.utils.parametrizations.weight_norm(model.grouped)  # type: ignore[attr-defined, arg-type]
    marked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with pytest.raises(
        ValueError, match=r"intrinsic: a \w+ computes its weights already .*take that off first"
    ):
        small("intrinsic").attach(model)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == marked
    # Those that look for weights pass such a layer by.
    svfit = small("svfit")
    before = model(pixels(), {"logits"}).logits
    assert torch.equal(svfit.merge(svfit.attach(model))(pixels(), {"logits"}).logits, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu(name: str) -> None:
    check_adapter(
        partial(small, name), lambda: traps().cuda(), pixels().cuda(), same_start=name not in OTHER_START
    )


@pytest.mark.parametrize("name", NAMES)
def test_an_attached_model_moves_as_one(name: str) -> None:
    """Stands for a move to a device: everything that the pass needs goes along with `to`."""
    model = small(name).attach(traps()).to(torch.float64).eval()
    floats = [t for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float64}
    assert torch.isfinite(model(pixels().double(), {"logits"}).logits).all()
    assert all(
        tensor.device.type == "meta"
        for tensor in small(name).attach(traps()).to("meta").state_dict().values()
    )
