"""Self-distillation: hidden states stay near those of a teacher that was trained from the same start.

    loss = mean_i 1/(t_i d) sum_{tokens, width} (f_S(x_i) - f_T(x_i))^2

f_S, f_T: last hidden states [t, d] of the student, which trains, and of the frozen teacher; both see the
whole input. Beside the loss that the teacher was trained with, from the teacher's start and not from the
teacher, it is the paper's second round of further pre-training: a pull back towards the start.

Reference: S. Lee et al., "Self-Distillation for Further Pre-training of Transformers", ICLR 2023,
    https://arxiv.org/abs/2210.02871
Departure: only the distillation term is here; compose it: `[masked_autoencoding, self_distill]`.
Cost: a forward pass of each model.
"""

import torch
from torch import Tensor

from ray_app.methods.encoders import Encoder, Features
from ray_app.methods.objectives import Objective, TrainBatch
from ray_app.methods.objectives._teacher import Teacher


class SelfDistill(Objective):
    """For a stage after further pre-training: `start: pretrain`, `teacher: further`, the same loss beside.

    Args:
        teacher: A model of the student's kind; it is frozen. In a spec, the stage's `teacher`.
        hidden: `tokens`, or `pooled` where the network has no tokens.
    """

    labels = "none"

    def __init__(self, *, teacher: Encoder, hidden: str = "tokens") -> None:
        super().__init__()
        if hidden not in ("tokens", "pooled"):
            raise ValueError(f"self_distill: hidden must be tokens or pooled, got {hidden!r}")
        self.hidden = hidden
        self._teacher = Teacher(teacher, "self_distill")

    def begin(self, model: Encoder, rows: TrainBatch) -> None:
        """Take the teacher to the student's device."""
        self._teacher.meets(model)

    def loss(
        self, model: Encoder, batch: TrainBatch, step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return `loss`, in squared units of the hidden states, weighted by sample_weight.

        Raises:
            ValueError: The two models' hidden states differ in shape.
        """
        student, teacher = (self._states(ask, batch) for ask in (model, self._teacher))
        mine, theirs = student.tokens, teacher.tokens
        if self.hidden == "pooled":
            mine, theirs = student.pooled[:, None], teacher.pooled[:, None]
        if mine is None or theirs is None or mine.shape != theirs.shape:
            shapes = [None if one is None else list(one.shape) for one in (mine, theirs)]
            raise ValueError(
                f"self_distill: the student's {self.hidden} are {shapes[0]}, the teacher's {shapes[1]}; give "
                "a teacher of the same architecture"
            )
        gaps = (mine.float() - theirs.float()).square().mean(2)
        real = torch.ones_like(gaps)
        if self.hidden == "tokens" and student.lengths is not None:
            # Padding is no part of a text.
            real = (torch.arange(gaps.shape[1], device=gaps.device) < student.lengths[:, None]).to(gaps)
        each = (gaps * real).sum(1) / real.sum(1).clamp(min=1)
        if batch.sample_weight is None:
            return {"loss": each.mean()}
        weight = batch.sample_weight
        return {"loss": (each * weight).sum() / weight.sum().clamp(min=torch.finfo(each.dtype).tiny)}

    def _states(self, ask: Encoder | Teacher, batch: TrainBatch) -> Features:
        answer: Features = ask(batch.inputs, {"tokens"} if self.hidden == "tokens" else set())
        return answer
