"""Linear probe: the classifier trains, the network stays as it is.

Reference: G. Alain, Y. Bengio, "Understanding intermediate layers using linear classifier probes", 2016,
    https://arxiv.org/abs/1610.01644
Cost: a forward pass of the network, gradients of one layer.
"""

from typing import TYPE_CHECKING

from ray_app.methods.adapters import Adapter, train_classifier

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder


class LinearProbe(Adapter):
    """Use it as the least that fine-tuning has to beat. Dropout inside the network stays on while it trains."""

    def _check(self, model: "Encoder") -> None:
        if model.classifier is None:
            raise ValueError(
                "linear_probe: the model has no classifier of one linear layer; give it num_classes"
            )

    def _insert(self, model: "Encoder") -> None:
        train_classifier(model)
