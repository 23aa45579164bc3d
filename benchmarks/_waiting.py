"""An encoder that only waits, as long as a model would compute: what is left of a build is the engine."""

import os
import signal
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ray_app.methods.encoders import Encoder, Features, Inputs, Preparation, Want

if TYPE_CHECKING:
    from ray_app.methods import Batch


class _Pixels(Preparation):
    column = "image"

    def prepare(self, batch: "Batch") -> "Batch":
        return {"mean": np.array([np.asarray(image).mean() for image in batch["image"]], dtype=np.float32)}

    def collate(self, prepared: "Batch") -> Inputs:
        return torch.from_numpy(np.array(prepared["mean"]))


class Waiting(Encoder):
    """Takes a fixed time for each row, and no processor.

    Args:
        seconds_per_row: What a row takes.
        deadly: An image whose mean is this kills the process, as a bug in a library would.
    """

    modality = "image"
    dim = 1

    def __init__(self, *, seconds_per_row: float = 0.001, deadly: float | None = None) -> None:
        super().__init__()
        self.seconds_per_row = seconds_per_row
        self.deadly = deadly
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.preparation = _Pixels()

    @classmethod
    def light(cls, **options: Any) -> Preparation:
        """Return how it reads images."""
        return _Pixels()

    def forward(self, inputs: Inputs, want: Collection[Want] = ()) -> Features:
        """Return each image's mean, late."""
        assert isinstance(inputs, torch.Tensor)  # noqa: S101
        if self.deadly is not None and self.deadly in inputs.tolist():
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds_per_row * len(inputs))
        return Features(inputs[:, None] * self.weight)

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return its option."""
        return {"seconds_per_row": self.seconds_per_row, "deadly": self.deadly}, {}
