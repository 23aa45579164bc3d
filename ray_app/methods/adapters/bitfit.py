"""BitFit: biases and the classifier train, all other weights stay.

Biases are the parameters that are called `bias` or end in `_bias` (an attention's `q_bias`), those of
normalisation layers among them.

Reference: E. Ben Zaken, Y. Goldberg, S. Ravfogel, "BitFit: Simple Parameter-efficient Fine-tuning for
    Transformer-based Masked Language-models", ACL 2022, https://arxiv.org/abs/2106.10199
Departure: networks of any kind; in convolutional ones most biases are those of batch norm.
Cost: gradients through the whole network, optimiser state for about a thousandth of it.
"""

from typing import TYPE_CHECKING

from ray_app.methods.adapters import Adapter, train_classifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from ray_app.methods.encoders import Encoder


class BitFit(Adapter):
    """Use it where candidates are many and rows are few."""

    def _check(self, model: "Encoder") -> None:
        super()._check(model)
        if not any(True for _ in biases(model)):
            raise ValueError("bitfit: the model has no biases; use lora or svfit")

    def _insert(self, model: "Encoder") -> None:
        for parameter in biases(model):
            parameter.requires_grad_()
        train_classifier(model)


def biases(model: "Encoder") -> "Iterator[nn.Parameter]":
    """Yield the biases of everything but the classifier."""
    own = set(model.classifier.parameters()) if model.classifier is not None else set()
    for name, parameter in model.named_parameters():
        last = name.rpartition(".")[2]
        if (last == "bias" or last.endswith("_bias")) and parameter not in own:
            yield parameter
