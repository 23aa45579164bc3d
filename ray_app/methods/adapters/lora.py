"""LoRA: a low-rank matrix is added to each weight matrix, and trains in its place.

    y = W x + (alpha / r) B A x        A [r, in] drawn at random, B [out, r] zero at the start

Of a convolution, A is one with r channels out and B one of 1x1.

Reference: E. J. Hu, Y. Shen, P. Wallis et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR
    2022, https://arxiv.org/abs/2106.09685; the layers are those of peft.
Departure: all linear and convolution layers by default, where the paper adapts an attention's queries and
    values.
Cost: r (in + out) numbers a matrix; merged, none.
"""

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ray_app.methods.adapters import Adapter, train_classifier
from ray_app.methods.adapters._layers import inside, layers, shared

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder

_NAME = "lora"


class LoRA(Adapter):
    """The usual choice for transformers.

    Layers that cannot take it are passed by, or refused where `targets` names them: grouped convolutions (no
    matrix of low rank is their sum), those that share their weight with another place, and those within
    torch's MultiheadAttention, which reads weights without calling the layer.

    In float16 and bfloat16 models A and B are float32; merging rounds to the weight's type.

    Args:
        r: Rank.
        alpha: Scale of the sum, in units of 1/r; None: r.
        dropout: Of the layer's inputs, on the added path only.
        targets: Layers by the end of their dotted names; None: all linear and convolution layers.
        seed: Of A.
    """

    def __init__(
        self,
        *,
        r: int = 8,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        if r < 1:
            raise ValueError(f"lora: r must be >= 1, got {r!r}; 8 is usual")
        if alpha is not None and not alpha > 0:
            raise ValueError(f"lora: alpha must be > 0, got {alpha!r}; leave it out for r")
        if not 0 <= dropout < 1:
            raise ValueError(f"lora: dropout must be in 0..1, below 1, got {dropout!r}")
        self.r = r
        self.alpha = float(r if alpha is None else alpha)
        self.dropout = dropout
        self.targets = targets
        self.seed = seed

    def _check(self, model: "Encoder") -> None:
        super()._check(model)
        if not self._targets(model):
            raise ValueError("lora: no layer of this model can take it; use svfit or bitfit")

    def _insert(self, model: "Encoder") -> None:
        # peft imports transformers and accelerate: seconds.
        from peft import LoraConfig, inject_adapter_in_model

        names = self._targets(model)
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type] # divided by r, nothing else
            lora_dropout=self.dropout,
            # An expression matches whole names; a list would match ends of names.
            target_modules="|".join(map(re.escape, names)),
        )
        devices = [model.device] if model.device.type == "cuda" else []
        # peft draws from the global generators; what it drew is replaced below.
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*fan_in_fan_out", category=UserWarning)
            inject_adapter_in_model(config, model, adapter_name=_NAME)
        del model.peft_config
        generator = torch.Generator().manual_seed(self.seed)
        for _, _, layer in _adapted(model):
            layer.train(model.training)
            for matrix in (layer.lora_A[_NAME], layer.lora_B[_NAME]):
                matrix.to(torch.promote_types(matrix.weight.dtype, torch.float32))
            down = layer.lora_A[_NAME].weight
            drawn = torch.empty(down.shape, dtype=torch.float32)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            with torch.no_grad():
                down.copy_(drawn)
        train_classifier(model)

    def _remove(self, model: "Encoder") -> None:
        for parent, key, layer in list(_adapted(model)):
            layer.merge(adapter_names=[_NAME])
            setattr(parent, key, layer.get_base_layer())

    def _targets(self, model: "Encoder") -> list[str]:
        ties, read = shared(model), set(inside(model, nn.MultiheadAttention))
        able = {}
        for name, layer in layers(model, self.targets, self.name).items():
            reason = None
            if getattr(layer, "groups", 1) > 1:
                reason = "is a grouped convolution"
            elif layer.weight in ties:
                reason = "shares its weight with another place"
            elif layer in read:
                reason = "is within a MultiheadAttention, which does not call it"
            if reason is None:
                able[name] = layer
            elif self.targets is not None:
                raise ValueError(f"lora: targets name {name}, which {reason}; leave it out, or use svfit")
        return list(able)


def _adapted(model: "Encoder") -> Iterator[tuple[nn.Module, str, Any]]:
    """Yield each layer of peft's, with its parent and its name there."""
    from peft.tuners.lora import LoraLayer

    for parent in model.modules():
        for key, child in parent.named_children():
            if isinstance(child, LoraLayer):
                yield parent, key, child
