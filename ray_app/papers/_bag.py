"""A text classifier that a single core trains in a second: a mean of word vectors, and a layer on it."""

import re
import zlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ray_app.methods.encoders import Encoder, Features, Inputs, Want

if TYPE_CHECKING:
    from ray_app.methods import Batch

_WORD = re.compile(r"[a-z]+|[0-9]+")
_MOST = 64


class Bag(Encoder):
    """Logits of relu(W mean of word vectors); a word's vector is found by its hash.

    Args:
        num_classes: Width of the logits.
        dim: Of the vectors, and of the layer.
        buckets: How many vectors there are; words share them by chance.
        seed: Of the weights.
    """

    modality = "text"

    def __init__(self, *, num_classes: int, dim: int = 64, buckets: int = 4096, seed: int = 0) -> None:
        super().__init__()
        self.dim, self.num_classes = dim, num_classes
        self._options = {"num_classes": num_classes, "dim": dim, "buckets": buckets}
        # The first one is padding.
        self.vectors = nn.utils.skip_init(nn.Embedding, buckets + 1, dim, padding_idx=0)
        self.layer = nn.utils.skip_init(nn.Linear, dim, dim)
        self.head = nn.utils.skip_init(nn.Linear, dim, num_classes)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            std = dim**-0.5 if parameter.ndim > 1 else 0.0
            nn.init.normal_(parameter, std=std, generator=generator)
        with torch.no_grad():
            self.vectors.weight[0] = 0

    @property
    def classifier(self) -> nn.Linear:
        """The last layer."""
        return self.head

    def preprocess(self, batch: "Batch") -> Inputs:
        """Return `words` int64 [n, 64]: the bucket of each of a text's first words, 0 after the last."""
        buckets = self._options["buckets"]
        words = torch.zeros(len(batch[self.column]), _MOST, dtype=torch.int64)
        for row, text in enumerate(batch[self.column]):
            found = [zlib.crc32(word.encode()) % buckets + 1 for word in _WORD.findall(text.lower())[:_MOST]]
            words[row, : len(found)] = torch.tensor(found, dtype=torch.int64)
        return {"words": words}

    def forward(self, inputs: Inputs, want: Collection[Want] = ()) -> Features:
        """Return features of n texts."""
        if isinstance(inputs, Tensor):
            raise TypeError("bag: expected words, got a tensor")
        words = inputs["words"]
        real = (words > 0).sum(1, keepdim=True).clamp(min=1)
        # The sum's scale is kept: a mean of many random vectors would be near zero.
        pooled = torch.relu(self.layer(self.vectors(words).sum(1) / real.sqrt()))
        return Features(pooled, logits=self.head(pooled) if "logits" in want else None)

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return what constructs it anew."""
        return dict(self._options), {}
