"""Objectives: what a training step minimises, and what happens around it.

    objective.begin(model, rows)              once, before the first step
    objective.loss(model, batch, ...)         forward passes and the scalar to minimise; gradients follow
    objective.before_step(model, ...)         after unscaling and clipping, before the optimiser's step
    objective.after_step(model, ...)          after it

Several together are one (`Composed`): their weighted losses are summed, and each acts at each of these
moments. A training that was killed goes on with a new objective: construct, `begin`, `load_state_dict`.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder, Inputs

Labels: TypeAlias = Literal["none", "hard", "soft"]
"""What an objective reads of labels: nothing, classes int64 [n], or those and shares of classes [n, c]."""


@dataclass(frozen=True)
class TrainBatch:
    """One step's rows, on the model's device."""

    inputs: "Inputs"
    """What `Encoder.preprocess` returned, n rows."""
    labels: Tensor | None = None
    """int64 [n], or float [n, c] where images are blended, or [n, t] for tokens; None for unlabelled rows."""
    sample_weight: Tensor | None = None
    """float32 [n]."""
    columns: dict[str, Any] | None = None
    """Further columns of the dataset (a teacher's stored outputs, pairs, groups)."""
    row: Tensor | None = None
    """int64 [n]: which of the training rows these are, counted from 0 in the order that `begin` saw."""


class Objective(nn.Module):
    """A training loss. It calls the model itself, so it may alter the inputs first or call it twice.

    It is a module, hence it may own parameters, buffers, queues, averaged copies and frozen second models.
    The trainer adds its parameters to the optimiser's and moves it to the device.
    """

    labels: ClassVar[Labels] = "hard"
    """What it reads of a batch's labels."""
    minimises: ClassVar[bool] = True
    """Whether it has a loss; one that has not acts around the steps of others."""

    rows_apart: bool = True
    """Whether the loss is a mean over rows, each for itself, of which it remembers nothing: then several
    processes can have a share of a batch each."""

    def begin(self, model: "Encoder", rows: TrainBatch) -> None:
        """Prepare for a training; parameters that it makes here train too. Nothing by default.

        Args:
            model: What will be trained, on its device.
            rows: All training rows as they are, on the CPU; `row` counts them.
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

    def before_step(self, model: "Encoder", step: int, generator: torch.Generator) -> None:
        """Change gradients, which are unscaled and clipped, once a step. Nothing by default."""

    def after_step(self, model: "Encoder", step: int, generator: torch.Generator) -> None:
        """Act after an optimiser step: re-apply a mask, move an average. Nothing by default."""


class Composed(Objective):
    """Several objectives as one: the weighted sum of their losses, and what each does around a step.

    Each calls the model for itself; what they log is named `<objective>.<what>`.

    Args:
        parts: Name → objective, at least one of which minimises something.
        weights: Name → the weight of its loss.
    """

    labels = "soft"  # each part reads what it can; the spec sees to it that they agree

    def __init__(self, *, parts: Mapping[str, Objective], weights: Mapping[str, float]) -> None:
        super().__init__()
        if not any(part.minimises for part in parts.values()):
            raise ValueError(
                f"composed: {', '.join(parts) or 'no part'} minimises nothing; add a loss (cross_entropy)"
            )
        self.parts = nn.ModuleDict(dict(parts))
        self.rows_apart = all(part.rows_apart for part in parts.values())
        self.weights = dict(weights)

    def begin(self, model: "Encoder", rows: TrainBatch) -> None:
        """Let each part prepare."""
        for _, part in self._named():
            part.begin(model, rows)

    def loss(
        self, model: "Encoder", batch: TrainBatch, step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the sum as `loss`, and what each part returned."""
        logged: dict[str, Tensor] = {}
        terms = []
        for name, part in self._named():
            if not part.minimises:
                continue
            losses = part.loss(model, batch, step, generator)
            terms.append(self.weights[name] * losses["loss"])
            # For the log alone: the graph is the sum's.
            logged |= {f"{name}.{what}": value.detach() for what, value in losses.items()}
        return {"loss": torch.stack(terms).sum(), **logged}

    def parameter_groups(self, model: "Encoder") -> Iterator[dict[str, Any]]:
        """Yield each part's groups; a parameter that several name is the first one's."""
        seen: set[int] = set()
        for _, part in self._named():
            for group in part.parameter_groups(model):
                own = [p for p in group["params"] if id(p) not in seen]
                seen |= {id(p) for p in own}
                if own:
                    yield {**group, "params": own}

    def before_step(self, model: "Encoder", step: int, generator: torch.Generator) -> None:
        """Let each part change the gradients, in the order given."""
        for _, part in self._named():
            part.before_step(model, step, generator)

    def after_step(self, model: "Encoder", step: int, generator: torch.Generator) -> None:
        """Let each part act, in the order given."""
        for _, part in self._named():
            part.after_step(model, step, generator)

    def _named(self) -> Iterator[tuple[str, Objective]]:
        for name, part in self.parts.items():
            yield name, cast(Objective, part)
