"""Full fine-tuning: every parameter trains, normalisation statistics follow the data.

Reference: none; it is what the other adapters are compared with.
Cost: gradients and optimiser state for all of the weights.
"""

from typing import TYPE_CHECKING

from ray_app.methods.adapters import Adapter

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder


class Full(Adapter):
    """Use it where there are rows enough; nothing is added to the model."""

    holds_statistics = False

    def _check(self, model: "Encoder") -> None:
        """Take every model."""

    def _insert(self, model: "Encoder") -> None:
        for parameter in model.parameters():
            parameter.requires_grad_()
