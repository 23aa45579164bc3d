"""AdapterBit: small networks beside each transformer block's two halves train, and all biases.

    after the attention's projection:    y <- y + scale A(y)
    parallel to the feed-forward block:  y <- F(x) + scale A(x)
    A(x) = W_up gelu(W_down x + b_down) + b_up,    W_up and b_up zero at the start

Reference: J. Hu, Y. Cao, M. Wu et al., "PSELDNets: Pre-trained Neural Networks on Large-scale Synthetic
    Datasets for Sound Event Localization and Detection", 2024, https://arxiv.org/abs/2411.06399
Departure: in BERT and its kin the parallel adapter is not subject to the feed-forward block's dropout.
Cost: 4 ratio d^2 numbers a block of width d, at training and after it: it is not linear and cannot be merged.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ray_app.methods.adapters import Adapter, train_classifier
from ray_app.methods.adapters.bitfit import biases

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder

_Place: TypeAlias = Literal["after", "beside", "before_sum"]

# Ends of dotted names: timm's vision transformers; BERT and its kin; DistilBERT.
_ATTENTION = ("attn.proj", "attention.output.dense", "attention.out_lin")
_FEED_FORWARD = ("mlp", "ffn")
_ADDED = "_adapterbit"


class AdapterBit(Adapter):
    """Use it on transformers with very few rows (tens of clips), where one model is served, not a soup.

    Args:
        ratio: Width of an adapter's hidden layer, as a share of its inputs'.
        scale: Factor of what adapters add.
        biases: Whether all biases of the network train too.
        seed: Of the adapters' weights.
    """

    merges = False

    def __init__(self, *, ratio: float = 0.5, scale: float = 0.1, biases: bool = True, seed: int = 0) -> None:
        if not 0 < ratio <= 4:
            raise ValueError(f"adapterbit: ratio must be in 0..4, got {ratio!r}; 0.5 is the paper's")
        if not scale > 0:
            raise ValueError(f"adapterbit: scale must be > 0, got {scale!r}; 0.1 is the paper's")
        self.ratio = ratio
        self.scale = scale
        self.biases = biases
        self.seed = seed

    def _check(self, model: "Encoder") -> None:
        super()._check(model)
        places = {place for _, _, place in _places(model)}
        if "after" not in places or len(places) < 2:
            raise ValueError(
                "adapterbit: found no transformer blocks (attention's projection: "
                f"{', '.join(_ATTENTION)}; feed-forward: {', '.join(_FEED_FORWARD)}, intermediate); "
                "use lora or svfit"
            )

    def _insert(self, model: "Encoder") -> None:
        generator = torch.Generator().manual_seed(self.seed)
        if self.biases:
            for parameter in biases(model):
                parameter.requires_grad_()
        places = list(_places(model))
        model.adapterbit = nn.ModuleList()
        for module, width, place in places:
            hidden = max(1, round(self.ratio * width))
            added = _Bottleneck(width, hidden, self.scale, generator).to(model.device)
            model.adapterbit.append(added)
            # Not as a child: a Sequential would run it as one step more.
            module.__dict__[_ADDED] = added
            # Plain functions, so that copies of the model have them too.
            if place == "after":
                module.register_forward_hook(_after)
            elif place == "beside":
                module.register_forward_hook(_beside)
            else:
                module.register_forward_pre_hook(_before_sum)
        train_classifier(model)


class _Bottleneck(nn.Module):
    """[…, d] → […, d], exactly 0 at the start."""

    def __init__(self, width: int, hidden: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = scale
        self.down = nn.utils.skip_init(nn.Linear, width, hidden)
        self.up = nn.utils.skip_init(nn.Linear, hidden, width)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5, generator=generator)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.down(x.to(self.down.weight.dtype)))
        return (self.scale * self.up(hidden)).to(x.dtype)


def _places(model: "Encoder") -> Iterator[tuple[nn.Module, int, _Place]]:
    """Yield modules that get an adapter, its width, and where it is."""
    for name, module in model.named_modules():
        dotted = f".{name}"
        if isinstance(module, nn.Linear) and dotted.endswith(tuple(f".{end}" for end in _ATTENTION)):
            yield module, module.out_features, "after"
        elif dotted.endswith(tuple(f".{end}" for end in _FEED_FORWARD)):
            first = next((part for part in module.modules() if isinstance(part, nn.Linear)), None)
            if first is not None:
                yield module, first.in_features, "beside"
        elif isinstance(getattr(module, "intermediate", None), nn.Module) and hasattr(module, "output"):
            # Its `output` gets the block's inner state and its input, and adds the latter before the norm.
            yield module.output, module.output.dense.out_features, "before_sum"


def _after(module: Any, _: Any, output: Tensor) -> Tensor:
    added: Tensor = output + module.__dict__[_ADDED](output)
    return added


def _beside(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    added: Tensor = output + module.__dict__[_ADDED](inputs[0])
    return added


def _before_sum(module: Any, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return inputs[0], inputs[1] + module.__dict__[_ADDED](inputs[1])
