"""A linear classifier on features computed before, which the training loop trains as it trains a network."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ray_app.methods.encoders import Encoder, Features, Inputs, Want

if TYPE_CHECKING:
    from ray_app.methods import Batch


class Probe(Encoder):
    """Logits from the column `tensor`; its weights begin at zero.

    Args:
        dim: Width of the features.
        num_classes: Width of the logits.
    """

    modality = "tensor"

    def __init__(self, *, dim: int, num_classes: int) -> None:
        super().__init__()
        self.dim = dim
        self.num_classes = num_classes
        self.linear = nn.utils.skip_init(nn.Linear, dim, num_classes)
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)

    @property
    def classifier(self) -> nn.Linear:
        """The linear layer."""
        return self.linear

    def preprocess(self, batch: "Batch") -> Tensor:
        """Return float32 [n, d]."""
        return torch.from_numpy(batch[self.column])

    def forward(self, inputs: Inputs, want: Collection[Want] = ()) -> Features:
        """Return features [n, d] as they are, and their logits."""
        if not isinstance(inputs, Tensor):
            raise TypeError(f"probe: expected a tensor of features, got {type(inputs).__name__}")
        return Features(inputs, logits=self.linear(inputs) if "logits" in want else None)

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return what constructs it anew."""
        return {"dim": self.dim, "num_classes": self.num_classes}, {}
