"""Objectives: what a training step minimises."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder, Inputs


@dataclass(frozen=True)
class TrainBatch:
    """One step's rows, on the model's device."""

    inputs: "Inputs"
    """What `Encoder.preprocess` returned, n rows."""
    labels: Tensor | None = None
    """int64 [n], or [n, c] multi-hot, or [n, t] for tokens; None for unlabelled rows."""
    sample_weight: Tensor | None = None
    """float32 [n]."""
    columns: dict[str, Any] | None = None
    """Further columns of the dataset (a teacher's stored outputs, pairs, groups)."""


class Objective(nn.Module):
    """A training loss. It calls the model itself, so it may alter the inputs first or call it twice.

    It is a module, hence it may own parameters, buffers, queues, averaged copies and frozen second models.
    The trainer adds its parameters to the optimiser's and moves it to the device.
    """

    @abstractmethod
    def loss(
        self, model: "Encoder", batch: TrainBatch, step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return scalars to log; the one called `loss` is minimised.

        Args:
            model: In train mode; `model(batch.inputs, want={"logits"})`.
            batch: n rows.
            step: Optimiser steps done so far.
            generator: The only source of chance.
        """

    def parameter_groups(self, model: "Encoder") -> Iterator[dict[str, Any]]:
        """Yield the optimiser's parameter groups; by default one, of all that train."""
        yield {"params": [p for module in (model, self) for p in module.parameters() if p.requires_grad]}

    def after_step(self, model: "Encoder", step: int, generator: torch.Generator) -> None:
        """Act after an optimiser step: re-apply a mask, add noise, move an average. Nothing by default."""
