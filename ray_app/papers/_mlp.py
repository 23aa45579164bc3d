"""A fully connected network on small images, drawn as papers on training draw theirs."""

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ray_app.methods.encoders import Encoder, Features, Inputs, Modality, Want

if TYPE_CHECKING:
    from ray_app.methods import Batch

Init = Literal["zero", "simple", "he", "usual"]
"""All weights zero; N(0, 0.1^2) and no bias; He's: N(0, 2 / width) and no bias; or torch's own: weights and
biases uniform within 1 / sqrt(width)."""


class Mlp(Encoder):
    """ReLU layers on flattened pixels in 0..1; pooled features are the last hidden layer.

    Args:
        widths: Of the hidden layers, at least one.
        inputs: Pixels of an image.
        num_classes: Width of the logits.
        init: How weights are drawn.
        seed: Of the weights.
    """

    modality: Modality = "image"

    def __init__(
        self, *, widths: Sequence[int], inputs: int, num_classes: int, init: Init = "he", seed: int = 0
    ) -> None:
        super().__init__()
        self.dim, self.num_classes = widths[-1], num_classes
        self._options = {"widths": list(widths), "inputs": inputs, "num_classes": num_classes, "init": init}
        sizes = pairwise((inputs, *widths, num_classes))
        layers = [nn.utils.skip_init(nn.Linear, before, after) for before, after in sizes]
        generator = torch.Generator().manual_seed(seed)
        for layer in layers:
            if init == "usual":
                bound = layer.in_features**-0.5
                nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
                continue
            std = {"zero": 0.0, "simple": 0.1, "he": (2 / layer.in_features) ** 0.5}[init]
            nn.init.normal_(layer.weight, std=std, generator=generator)
            nn.init.zeros_(layer.bias)
        self.hidden, self.head = nn.ModuleList(layers[:-1]), layers[-1]

    @property
    def classifier(self) -> nn.Linear:
        """The last layer."""
        return self.head

    def preprocess(self, batch: "Batch") -> Tensor:
        """Return float32 0..1 [n, c, h, w] of the column `image`, uint8 [n, h, w, c]."""
        return torch.from_numpy(batch[self.column]).movedim(-1, 1).float() / 255

    def forward(self, inputs: Inputs, want: Collection[Want] = ()) -> Features:
        """Return features of pixels [n, c, h, w]."""
        if not isinstance(inputs, Tensor):
            raise TypeError(f"mlp: expected a tensor of pixels, got {type(inputs).__name__}")
        x = inputs.flatten(1)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return Features(x, logits=self.head(x) if "logits" in want else None)

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return what constructs it anew."""
        return dict(self._options), {}


class VectorMlp(Mlp):
    """The same with two hidden layers and torch's own initial weights, on rows that are vectors already.

    Args:
        inputs: Width of the rows.
        dim: Width of each hidden layer.
        num_classes: Width of the logits.
        seed: Of the weights.
    """

    modality: Modality = "tensor"

    def __init__(self, *, inputs: int, dim: int, num_classes: int, seed: int) -> None:
        super().__init__(widths=(dim, dim), inputs=inputs, num_classes=num_classes, init="usual", seed=seed)

    def preprocess(self, batch: "Batch") -> Tensor:
        """Return float32 [n, inputs] of the column `tensor`."""
        return torch.from_numpy(batch[self.column])


def vectors(batch: "Batch") -> "Batch":
    """Return a batch of equally large images with the column `tensor`, float32 [n, pixels] in 0..1."""
    images = batch["image"]
    return {**batch, "tensor": images.reshape(len(images), -1).astype("float32") / 255}
