"""Distillation: the student learns a teacher's probabilities, no labels.

    p_t = softmax(z_t / T),  p_s = softmax(z_s / T),  m = (p_s + p_t) / 2
    js              loss = T^2 ( KL(p_s || m) + KL(p_t || m) ) / 2       in 0..T^2 log 2, nats
    cross_entropy   loss = -T^2 sum_c p_t(c) log p_s(c)
    kl              loss = T^2 KL(p_t || p_s): the same gradient, 0 where both agree

T^2 keeps the gradient's size whatever the temperature.

Reference: C. Cui et al., "Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to
    Improve Backbones" (SSLD: js, soft labels alone, the same augmented image to both), 2021,
    https://arxiv.org/abs/2103.05959; I. Turc et al., "Well-Read Students Learn Better" (cross_entropy, after
    the student was pre-trained), 2019, https://arxiv.org/abs/1908.08962; G. Hinton et al., "Distilling the
    Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531 (T)
Departure: papers 1 and 2 have T = 1, the default.
Cost: a forward pass of the student, and one of the teacher where its logits are not a column of the data.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ray_app.methods.encoders import Encoder
from ray_app.methods.objectives import Objective, TrainBatch
from ray_app.methods.objectives._teacher import Teacher

_DIVERGENCES = ("js", "cross_entropy", "kl")


class Distill(Objective):
    """Use it to make a small model of a large one, on as many unlabelled rows as there are.

    `js` has a small gradient where both are sure and differ: it wants another learning rate than the others.

    Args:
        teacher: A trained model that takes the student's inputs; None: its logits are stored.
        column: The dataset's column with a teacher's logits [n, c], where there is no teacher.
        divergence: What is minimised.
        temperature: Divides the logits of both.
    """

    labels: ClassVar[Literal["none"]] = "none"

    def __init__(
        self,
        *,
        teacher: Encoder | None = None,
        column: str = "teacher_logits",
        divergence: Literal["js", "cross_entropy", "kl"] = "js",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if divergence not in _DIVERGENCES:
            raise ValueError(
                f"distill: divergence must be one of {', '.join(_DIVERGENCES)}, got {divergence!r}"
            )
        if not temperature > 0:
            raise ValueError(f"distill: temperature must be > 0, got {temperature!r}; the papers have 1")
        self.column, self.divergence, self.temperature = column, divergence, temperature
        self._teacher = Teacher(teacher, "distill") if teacher is not None else None

    def loss(
        self, model: Encoder, batch: TrainBatch, step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return `loss`, and `agreement`: the share of rows where both find the same class most probable.

        Raises:
            ValueError: There is neither a teacher nor its column, the teacher is the student, or one of them
                has no classifier or another number of classes.
        """
        target = self._target(model, batch)
        logits = model(batch.inputs, want={"logits"}).logits
        if logits.shape != target.shape:
            raise ValueError(
                f"distill: the student has logits {tuple(logits.shape)}, the teacher {tuple(target.shape)}; "
                "they must know the same classes"
            )
        losses = self._losses(logits, target)
        agrees = (logits.detach().argmax(1) == target.argmax(1)).float()
        if batch.sample_weight is None:
            return {"loss": losses.mean(), "agreement": agrees.mean()}
        # All weights zero: nothing to learn, and no division by zero.
        weight = batch.sample_weight / batch.sample_weight.sum().clamp(min=torch.finfo(losses.dtype).tiny)
        return {"loss": (losses * weight).sum(), "agreement": (agrees * weight).sum()}

    def _target(self, model: Encoder, batch: TrainBatch) -> Tensor:
        if self._teacher is None:
            stored = (batch.columns or {}).get(self.column)
            if stored is None:
                raise ValueError(
                    f"distill: no teacher, and no column {self.column!r} with its logits; give either"
                )
            return torch.as_tensor(stored, dtype=torch.float32, device=model.device)
        self._teacher.meets(model)
        found = self._teacher(batch.inputs, {"logits"}).logits
        if found is None:
            raise ValueError("distill: the teacher has no classifier; give one that has")
        return found

    def _losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Float [n]."""
        student = torch.log_softmax(logits / self.temperature, 1)
        teacher = torch.log_softmax(target / self.temperature, 1)
        if self.divergence == "js":
            # The mean's logarithm from logarithms: no probability is rounded to 0 first.
            middle = torch.logaddexp(student, teacher) - math.log(2)
            found = (_kl(student, middle) + _kl(teacher, middle)) / 2
        elif self.divergence == "kl":
            found = _kl(teacher, student)
        else:
            found = -(teacher.exp() * student).sum(1)
        return self.temperature**2 * found


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL divergence [n] of log probabilities [n, c]."""
    return (p.exp() * (p - q)).sum(1)
