"""The training loop: plain torch, deterministic given its settings. All that trains here trains with it."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ray_app.methods import _optimizers
from ray_app.methods.adapters import Adapter
from ray_app.methods.encoders import Encoder, Inputs
from ray_app.methods.objectives import Objective, TrainBatch
from ray_app.spec.train import Train
from ray_app.tune.augment import Augmentation, lent
from ray_app.tune.patience import Best
from ray_app.tune.state import Saved, chance, set_chance
from ray_app.tune.team import Team, local, plain
from ray_app.tune.team import check as check_team

_SETTINGS = ("initial_lr", "weight_decay")
"""What settings say of an optimiser's groups, beside what its options do."""


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


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to."""

    number: int
    """From 1."""
    logged: Mapping[str, float]
    """Means of what the objective logged, and what was judged of the model as it is."""
    last: bool
    """Whether training ends with it; the model then has the weights to keep."""


Judge = Callable[[], tuple[float, dict[str, float]]]
"""Judges the model in eval mode on rows it does not train on: a score, higher is better, and what to log."""


def take(inputs: Inputs, rows: Tensor | slice) -> Inputs:
    """Return the chosen rows of inputs."""
    return inputs[rows] if isinstance(inputs, Tensor) else {key: value[rows] for key, value in inputs.items()}


def train(
    model: Encoder,
    objective: Objective,
    rows: Rows,
    how: Train,
    on_epoch: Callable[[Epoch], None] | None = None,
    *,
    judge: Judge | None = None,
    adapter: Adapter | None = None,
    saved: Saved | None = None,
    until: int | None = None,
    team: Team | None = None,
) -> None:
    """Train a model in place; it is in eval mode afterwards.

    The same settings, rows and number of threads give the same weights, to the bit, on the same processor.

    Args:
        model: What trains (its parameters with requires_grad), the adapter attached.
        objective: What is minimised; its own parameters train too.
        rows: What to train on.
        how: The settings, the objective's and the adapter's aside.
        on_epoch: Called after each epoch; the model is in eval mode then.
        judge: Called before it; what `patience` goes by.
        adapter: What is attached to the model, for its penalty.
        saved: Training goes on from the state there, if there is one, and leaves its own there now and then.
            The model is what it was when that training began; settings may have changed, as long as the same
            things train.
        until: Training stops after this epoch, and its state is written; it was not the last one. The course
            of the learning rate stays that of all epochs.
        team: This process among several that train one model, each of which makes the same call.

    Raises:
        ValueError: No rows, or rows, a model or a device that do not fit the settings.
        RunError: The saved state is not readable, or another model's.
        FloatingPointError: The loss, a gradient or a weight is no longer finite.
    """
    _check(model, objective, rows, how, judge)
    if until is not None and saved is None:
        raise ValueError(f"train: until={until} needs `saved`, where the rest can be gone on from")
    objective.to(model.device)
    every = torch.arange(len(rows))
    objective.begin(model, TrainBatch(rows.inputs, rows.labels, row=every))
    objective.to(model.device)
    generator = torch.Generator().manual_seed(how.seed)
    size = how.batch_size * how.accumulate
    if team is not None:
        check_team(team.parallel, model, objective, adapter, how)
    steps = Steps(model, objective, how, adapter, how.epochs * len(_batches(every, size)), team)
    best = Best(how.patience) if how.patience is not None else None
    # Processes of a team drop out units of their own.
    with lent(how.seed + (team.rank if team is not None else 0), model.device):
        done = _restore(saved, steps, best, generator) if saved is not None else 0
        for number in range(done + 1, (until or how.epochs) + 1):
            model.train()
            objective.train()
            logged: dict[str, float] = {}
            for index in _batches(torch.randperm(len(rows), generator=generator), size):
                for name, value in steps(rows, index, generator).items():
                    logged[name] = logged.get(name, 0.0) + value * len(index) / len(rows)
            steps.check_finite()
            last = number == how.epochs
            with steps.averaged():
                model.eval()
                score, judged = judge() if judge is not None else (0.0, {})
                if best is not None:
                    last = best.update(score, judged, model) or last
                    if last:
                        # What is logged describes the weights that are kept.
                        judged = best.restore(model)
                if on_epoch is not None:
                    on_epoch(Epoch(number, {**logged, **judged}, last))
                if last:
                    steps.keep()
                    break
            # After it was told: what is told again can be left out, what never was could not be made up.
            if saved is not None and (number == until or steps.all_agree(sound=saved.due)):
                _save(saved, number, steps, best, generator)
    model.eval()


def _save(saved: Saved, number: int, steps: "Steps", best: "Best | None", generator: torch.Generator) -> None:
    state = {
        "steps": steps.state(),
        "best": best.state() if best is not None else None,
        "chance": steps.chance(generator),
    }
    if steps.leads:
        saved.write(number, state)


def _restore(saved: Saved, steps: "Steps", best: "Best | None", generator: torch.Generator) -> int:
    """Go on from a saved state, if there is one; return how many epochs it had."""
    found = saved.read()
    if found is None:
        return 0
    try:
        steps.load(found["steps"])
        if best is not None and found["best"] is not None:
            best.load(found["best"])
        steps.set_chance(found["chance"], generator)
    except (KeyError, RuntimeError, ValueError) as error:
        raise saved.refused(f"another training's: {str(error).splitlines()[0]}") from error
    return saved.epoch


class Steps:
    """The optimiser's steps of one training: gradients, what changes them, and what follows a step.

    Args:
        model: What trains.
        objective: What is minimised.
        how: The settings.
        adapter: What is attached to the model.
        total: How many steps there will be.
        team: This process among several; None: it trains alone.
    """

    def __init__(
        self,
        model: Encoder,
        objective: Objective,
        how: Train,
        adapter: Adapter | None,
        total: int,
        team: Team | None = None,
    ) -> None:
        self._model, self._objective, self._how, self._adapter = model, objective, how, adapter
        self._team = team
        # Before the optimiser: it would else hold weights that are shared out afterwards.
        self._called = model if team is None else team.wrap(model)
        # What an objective draws for a share of a batch must not move what all processes draw alike.
        self._own = torch.Generator().manual_seed(how.seed + (team.rank if team is not None else 0))
        groups: Iterable[dict[str, Any]] = objective.parameter_groups(model)
        if how.layer_decay < 1:
            groups = _optimizers.layered(groups, model, how.lr, how.layer_decay)
        self._optimizer = _optimizers.build(
            how.optimizer.name, groups, how.optimizer.options, lr=how.lr, weight_decay=how.weight_decay
        )
        self._trained = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(self._optimizer, _schedule(how, total))
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=how.amp == "float16")
        self._augmentation = Augmentation(how.augment, model.num_classes) if how.augment.used else None
        self._average = _average(model, how.ema) if how.ema is not None else None
        self._kept = False
        self._step = 0

    def __call__(self, rows: Rows, index: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Make one step on the rows of this index; return the means of what was logged."""
        self._optimizer.zero_grad(set_to_none=True)
        logged: dict[str, float] = {}
        for part in _batches(index, self._how.batch_size):
            share = len(part) / len(index)
            batch = self._batch(rows, part, generator)
            for name, value in self._backward(batch, share, generator).items():
                logged[name] = logged.get(name, 0.0) + value * share
        self._scaler.unscale_(self._optimizer)
        norm = plain(nn.utils.clip_grad_norm_(self._trained, self._how.clip or math.inf))
        # A scaler meets gradients that are not finite by skipping the step and scaling less.
        if not self._scaler.is_enabled() and not torch.isfinite(norm):
            raise FloatingPointError(self._exploded("the gradient", norm.item()))
        self._objective.before_step(self._model, self._step, generator)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._scheduler.step()
        self._objective.after_step(self._model, self._step, generator)
        if self._average is not None:
            self._average.update_parameters(self._model)
        self._step += 1
        return logged

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self._model.device

    def state(self) -> dict[str, Any]:
        """Return what `load` goes on from; the learning rate follows from the number of steps."""
        if self._team is None:
            weights, optimized = self._model.state_dict(), self._optimizer.state_dict()
        else:
            weights, optimized = self._team.whole(self._model, self._optimizer)
        return {
            "model": weights,
            "objective": self._objective.state_dict(),
            "optimizer": optimized,
            "scaler": self._scaler.state_dict(),
            "average": self._average.state_dict() if self._average is not None else None,
            "step": self._step,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there, with the settings that are given now.

        Raises:
            KeyError, RuntimeError, ValueError: The state is of something else.
        """
        self._objective.load_state_dict(state["objective"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        settings = [{key: group[key] for key in _SETTINGS} for group in self._optimizer.param_groups]
        if self._team is None:
            self._model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
        else:
            self._team.load(self._model, state["model"], self._optimizer, state["optimizer"])
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        self._step = self._scheduler.last_epoch = state["step"]
        # Some optimisers count in their groups: those numbers are the state's, the settings are not.
        for group, given, factor in zip(
            self._optimizer.param_groups, settings, self._scheduler.lr_lambdas, strict=True
        ):
            group.update(given, lr=given["initial_lr"] * factor(self._step))

    def check_finite(self) -> None:
        """Refuse to go on with weights that exploded in the latest step.

        Raises:
            FloatingPointError: Says so.
        """
        if not self.all_agree(sound=all(bool(torch.isfinite(local(p)).all()) for p in self._trained)):
            raise FloatingPointError(self._exploded("a weight", math.nan))

    def all_agree(self, *, sound: bool) -> bool:
        """Return whether all processes of the team say so; without one, what this one says."""
        return sound if self._team is None else self._team.agree(sound=sound, device=self.device)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self._team is None or self._team.leads

    def chance(self, generator: torch.Generator) -> list[dict[str, Tensor]]:
        """Return what each process' generators are at."""
        here = chance(generator, self._own, self.device)
        return [here] if self._team is None else self._team.gathered(here)

    def set_chance(self, found: list[dict[str, Tensor]], generator: torch.Generator) -> None:
        """Go on from there.

        Raises:
            ValueError: It was another number of processes.
        """
        processes, rank = (1, 0) if self._team is None else (self._team.size, self._team.rank)
        if len(found) != processes:
            raise ValueError(f"of {len(found)} processes, not {processes}")
        set_chance(found[rank], generator, self._own, self.device)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """For a block, the model has the averaged weights, where there are such; keep() makes them stay."""
        if self._average is None:
            yield
            return
        raw = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        self._model.load_state_dict(self._average.module.state_dict())
        yield
        if not self._kept:
            self._model.load_state_dict(raw)

    def keep(self) -> None:
        """Let the model have the weights that it has now."""
        self._kept = True

    def _batch(self, rows: Rows, part: Tensor, generator: torch.Generator) -> TrainBatch:
        batch = rows[part].to(self._model.device)
        inputs, labels = batch.inputs, batch.labels
        if self._augmentation is not None and isinstance(inputs, Tensor):
            inputs, labels = self._augmentation(inputs, labels, generator)
        return TrainBatch(inputs, labels, row=part.to(self._model.device))

    def _backward(self, batch: TrainBatch, share: float, generator: torch.Generator) -> dict[str, float]:
        """Add a batch's gradients, times its share of a step; return what was logged of the whole batch."""
        if self._team is None:
            losses = self._losses(batch, generator)
            logged = {name: value.item() for name, value in losses.items()}
            scale = share
        else:
            index, weight = self._team.share(len(batch.row) if batch.row is not None else 0)
            losses = self._losses(_chosen(batch, index.to(self.device)), self._own)
            logged = self._team.summed(losses, weight)
            # Gradients are averaged over the processes, whose shares need not be alike.
            scale = share * weight * self._team.size
        # In a team, all of them have to see it, or the others would wait for this one.
        if not math.isfinite(logged["loss"]):
            raise FloatingPointError(self._exploded("loss", logged["loss"]))
        self._scaler.scale(losses["loss"] * scale).backward()
        return logged

    def _losses(self, batch: TrainBatch, generator: torch.Generator) -> dict[str, Tensor]:
        how = self._how
        dtype = torch.float16 if how.amp == "float16" else torch.bfloat16
        with torch.autocast(self._model.device.type, dtype=dtype, enabled=how.amp != "off"):
            losses = self._objective.loss(self._called, batch, self._step, generator)
            penalty = self._adapter.penalty(self._model) if self._adapter is not None else None
        if penalty is None:
            return losses
        return {**losses, "loss": losses["loss"] + penalty, "penalty": penalty.detach()}

    def _exploded(self, what: str, value: float) -> str:
        return f"{what} is {value} at step {self._step}; lower lr ({self._how.lr:g})"


@torch.inference_mode()
def logits_of(model: Encoder, rows: Rows, batch_size: int = 512, team: Team | None = None) -> Tensor:
    """Return float32 [n, c] on the CPU, in eval mode; processes of a team compute a share each."""
    if team is not None:
        # Equally many each, or some would wait for others' passes: the last row again, where they run out.
        each = -(-len(rows) // team.size)
        own = torch.arange(team.rank * each, (team.rank + 1) * each).clamp(max=len(rows) - 1)
        found = logits_of(model, rows[own], batch_size)
        return team.joined(found.to(model.device))[: len(rows)]
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


def _chosen(batch: TrainBatch, index: Tensor) -> TrainBatch:
    labels, row = batch.labels, batch.row
    return TrainBatch(
        take(batch.inputs, index),
        labels[index] if labels is not None else None,
        row=row[index] if row is not None else None,
    )


def _batches(index: Tensor, size: int) -> list[Tensor]:
    """Split an index; a last row that would be alone goes with the batch before it.

    One row has no spread, for batch normalisation to divide by, and no other row to be contrasted with.
    """
    batches = list(index.split(size))
    if size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _check(model: Encoder, objective: Objective, rows: Rows, how: Train, judge: Judge | None) -> None:
    if not len(rows):
        raise ValueError("train: no rows to train on; do the dataset's split and classes hold any?")
    if how.patience is not None and judge is None:
        raise ValueError("train: patience needs validation rows to judge by; leave it out")
    if how.amp == "float16" and model.device.type == "cpu":
        raise ValueError("train: amp: float16 needs a GPU; use bfloat16, or ask for one with resources.gpu")
    how.check_modality(model.modality, type(model).__name__.lower())
    if objective.labels != "none" and model.num_classes and rows.labels.ndim == 1:
        low, high = int(rows.labels.min()), int(rows.labels.max())
        if low < 0 or high >= model.num_classes:
            raise ValueError(
                f"train: labels run from {low} to {high}, the model has {model.num_classes} classes "
                f"(0..{model.num_classes - 1}); give it as many, or only rows of its classes"
            )


def _average(model: nn.Module, decay: float) -> Any:
    """An exponential average of a model's weights and statistics, on the model's device."""
    from torch.optim.swa_utils import AveragedModel

    def move(averages: Any, now: Any, count: Tensor | int) -> None:
        if not averages[0].is_floating_point():
            # Counters, such as batch norm's.
            for average, value in zip(averages, now, strict=True):
                average.copy_(value)
            return
        # As TensorFlow's moving averages do: the plain decay would keep a short training near its start.
        steps = float(count)
        torch._foreach_lerp_(averages, now, 1 - min(decay, (1 + steps) / (10 + steps)))

    return AveragedModel(model, multi_avg_fn=move, use_buffers=True)


def _schedule(how: Train, steps: int) -> Callable[[int], float]:
    rising = max(1, round(how.warmup * steps))
    length = steps / how.cycles

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        if how.schedule == "constant":
            return 1.0
        cycle = int(step / length)
        begun = max(rising, cycle * length)
        return 0.5 * (1 + math.cos(math.pi * (step - begun) / max(1, (cycle + 1) * length - begun)))

    return factor
