"""A network of linear layers, which a single core trains in a fraction of a second; its rows are vectors."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ray_app.methods.encoders import Encoder, Features, Inputs, Want

if TYPE_CHECKING:
    from ray_app.methods import Batch


class Mlp(Encoder):
    """Logits from the column `tensor`, by two hidden layers.

    Args:
        inputs: Width of the rows.
        dim: Width of each hidden layer.
        num_classes: Width of the logits.
        seed: Of the weights.
    """

    modality = "tensor"

    def __init__(self, *, inputs: int, dim: int, num_classes: int, seed: int) -> None:
        super().__init__()
        self.dim = dim
        self.num_classes = num_classes
        self._options = {"inputs": inputs, "dim": dim, "num_classes": num_classes, "seed": seed}
        generator = torch.Generator().manual_seed(seed)
        self.hidden = nn.Sequential(
            _linear(inputs, dim, generator), nn.ReLU(), _linear(dim, dim, generator), nn.ReLU()
        )
        self.last = _linear(dim, num_classes, generator)

    @property
    def classifier(self) -> nn.Linear:
        """The last layer."""
        return self.last

    def preprocess(self, batch: "Batch") -> Tensor:
        """Return float32 [n, inputs]."""
        return torch.from_numpy(batch[self.column])

    def forward(self, inputs: Inputs, want: Collection[Want] = ()) -> Features:
        """Return the last hidden layer [n, dim], and logits."""
        if not isinstance(inputs, Tensor):
            raise TypeError(f"mlp: expected a tensor of rows, got {type(inputs).__name__}")
        pooled = self.hidden(inputs)
        return Features(pooled, logits=self.last(pooled) if "logits" in want else None)

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return what constructs it anew."""
        return self._options, {}


def vectors(batch: "Batch") -> "Batch":
    """Return a batch of equally large images with the column `tensor`, float32 [n, pixels] in 0..1."""
    images = batch["image"]
    return {**batch, "tensor": images.reshape(len(images), -1).astype("float32") / 255}


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A layer with torch's usual weights, drawn from a generator."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = inputs**-0.5
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer
