"""A second model that an objective asks and never trains."""

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch

from ray_app.methods.encoders import Encoder, Features, Want

if TYPE_CHECKING:
    from ray_app.methods.encoders import Inputs


class Teacher:
    """A frozen model. It is no module, so that train(), an optimiser and state_dict pass it by.

    Args:
        model: From now on without gradients, and in eval mode.
        name: Of the objective, for its messages.
    """

    def __init__(self, model: Encoder, name: str) -> None:
        for parameter in model.parameters():
            parameter.requires_grad_(False)  # noqa: FBT003
        self._model = model.eval()
        self._name = name

    def meets(self, student: Encoder) -> None:
        """Follow a student to its device.

        Raises:
            ValueError: The student is the teacher itself.
        """
        if student is self._model:
            raise ValueError(
                f"{self._name}: the teacher is the model that trains; give a model of its own, such as a copy"
            )
        self._model.to(student.device)

    @torch.no_grad()
    def __call__(self, inputs: "Inputs", want: Collection[Want]) -> Features:
        """Return features, without gradients."""
        answer: Features = self._model(inputs, want)
        return answer
