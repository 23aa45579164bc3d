"""The training loop: plain torch, deterministic given its settings. All that trains here trains with it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ray_app.methods._views import Views
from ray_app.methods.encoders import Encoder, Inputs
from ray_app.methods.objectives import Objective, TrainBatch
from ray_app.spec.tune import Train


@dataclass(frozen=True)
class Rows:
    """Preprocessed rows in memory."""

    inputs: Inputs
    """n rows, as `Encoder.preprocess` gives them; bytes stay bytes until they are on the device."""
    labels: Tensor
    """int64 [n]"""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | slice) -> "Rows":
        """Return the chosen rows."""
        return Rows(take(self.inputs, rows), self.labels[rows])

    def to(self, device: torch.device | str) -> "Rows":
        """Return the rows on a device."""
        inputs = self.inputs
        moved: Inputs = (
            inputs.to(device)
            if isinstance(inputs, Tensor)
            else {key: value.to(device) for key, value in inputs.items()}
        )
        return Rows(moved, self.labels.to(device))


Epoch = Callable[[int, dict[str, float]], None]
"""Called after each epoch with its number from 1 and the mean of what the objective logged."""


def take(inputs: Inputs, rows: Tensor | slice) -> Inputs:
    """Return the chosen rows of inputs."""
    return inputs[rows] if isinstance(inputs, Tensor) else {key: value[rows] for key, value in inputs.items()}


def train(
    model: Encoder, objective: Objective, rows: Rows, how: Train, on_epoch: Epoch | None = None
) -> None:
    """Train a model in place; it is in eval mode afterwards.

    The same settings, rows and number of threads give the same weights, to the bit, on the same processor.

    Args:
        model: What trains (its parameters with requires_grad).
        objective: What is minimised; its own parameters train too.
        rows: What to train on.
        how: The settings.
        on_epoch: Called after each epoch; the model is in eval mode then.

    Raises:
        ValueError: No rows.
        FloatingPointError: The loss is no longer finite.
    """
    if not len(rows):
        raise ValueError("train: no rows to train on; do the dataset's split and classes hold any?")
    device = model.device
    objective.to(device)
    generator = torch.Generator().manual_seed(how.seed)
    batches = math.ceil(len(rows) / how.batch_size)
    optimizer = torch.optim.AdamW(
        list(objective.parameter_groups(model)), lr=how.lr, weight_decay=how.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(how, how.epochs * batches))
    views = Views(**how.augment.model_dump())
    augments = any(how.augment.model_dump().values())
    step = 0
    with _seeded_dropout(how.seed, device):
        for epoch in range(1, how.epochs + 1):
            model.train()
            objective.train()
            logged: dict[str, float] = {}
            for index in torch.randperm(len(rows), generator=generator).split(how.batch_size):
                batch = rows[index].to(device)
                if augments and isinstance(batch.inputs, Tensor):
                    batch = Rows(views(batch.inputs, generator), batch.labels)
                losses = objective.loss(model, TrainBatch(batch.inputs, batch.labels), step, generator)
                if not torch.isfinite(losses["loss"]):
                    raise FloatingPointError(
                        f"loss is {losses['loss'].item()} at step {step}; lower lr ({how.lr:g})"
                    )
                optimizer.zero_grad(set_to_none=True)
                losses["loss"].backward()
                nn.utils.clip_grad_norm_(
                    [p for group in optimizer.param_groups for p in group["params"]], how.clip
                )
                optimizer.step()
                scheduler.step()
                objective.after_step(model, step, generator)
                step += 1
                for name, value in losses.items():
                    logged[name] = logged.get(name, 0.0) + value.item() * len(index) / len(rows)
            model.eval()
            if on_epoch is not None:
                on_epoch(epoch, logged)
    model.eval()


@torch.inference_mode()
def logits_of(model: Encoder, rows: Rows, batch_size: int = 512) -> Tensor:
    """Return float32 [n, c] on the CPU, in eval mode."""
    model.eval()
    parts = []
    for start in range(0, len(rows), batch_size):
        logits = model(rows[slice(start, start + batch_size)].to(model.device).inputs, {"logits"}).logits
        parts.append(logits.cpu())
    return torch.cat(parts)


@torch.no_grad()
def recalibrate(model: Encoder, rows: Rows, batch_size: int = 512) -> None:
    """Recompute the running statistics of batch normalisation in place; a model without any stays as it is.

    Averaged weights meet activations that none of the ingredients' statistics describe.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    kept = [module.momentum for module in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # a plain mean over the batches
        module.train()
    for start in range(0, len(rows), batch_size):
        model(rows[slice(start, start + batch_size)].to(model.device).inputs)
    for module, momentum in zip(norms, kept, strict=True):
        module.momentum = momentum
    model.eval()


def _schedule(how: Train, steps: int) -> Callable[[int], float]:
    rising = max(1, round(how.warmup * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        if how.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    return factor


@contextmanager
def _seeded_dropout(seed: int, device: torch.device) -> Iterator[None]:
    # Dropout can only draw from torch's global generators: lend them a seed, then give the old state back.
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)  # noqa: TID251
        yield
