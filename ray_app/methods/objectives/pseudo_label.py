"""Pseudo labels: the task itself, on rows without labels, with what a teacher predicts as the truth.

    loss = sum_i w_i ( -log softmax(z_i)[y_i] ) / sum_i w_i        in nats
    y_i = argmax_c q_ic,     w_i = [max_c q_ic >= threshold]

q_i: the teacher's probabilities of row i, asked once, before training, of the row as it is. With `soft`, the
truth is q_i itself.

Reference: T. Guo, "Predictions For Pre-training Language Models", 2020, https://arxiv.org/abs/2011.09031
    (train on pseudo labels first, from the start and not from the teacher; then on the true ones)
Departure: the threshold and soft labels are ours; by default there are none, as in the paper.
Cost: one forward pass a step; the teacher's forward pass over the rows once.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_app.methods.encoders import Encoder
from ray_app.methods.objectives import Objective, TrainBatch
from ray_app.methods.objectives._teacher import Teacher


class PseudoLabel(Objective):
    """For a stage between pre-training and fine-tuning, where rows of the task are many and labels few.

    A teacher that is wrong half of the time teaches that. Labels that the rows may have are not read.

    Args:
        teacher: A model with the task's classifier. In a spec, the stage's `teacher`.
        threshold: Least probability of the teacher's class; rows below it do not count.
        soft: The truth is the teacher's probabilities, not its class alone.
    """

    labels = "none"

    proba: Tensor  # float32 [rows, c]: the teacher's

    def __init__(self, *, teacher: Encoder, threshold: float = 0.0, soft: bool = False) -> None:
        super().__init__()
        if not 0 <= threshold < 1:
            raise ValueError(f"pseudo_label: threshold must be in 0..1, below 1, got {threshold!r}; try 0")
        if not teacher.num_classes:
            raise ValueError("pseudo_label: the teacher has no classifier; train one with labels first")
        self.threshold = threshold
        self.soft = soft
        self._teacher = Teacher(teacher, "pseudo_label")
        self.register_buffer("proba", torch.zeros(0, teacher.num_classes))

    def begin(self, model: Encoder, rows: TrainBatch, batch_size: int = 512) -> None:
        """Ask the teacher about each row.

        Raises:
            ValueError: The model has other classes than the teacher, or no row reaches the threshold.
        """
        classes = self.proba.shape[1]
        if model.num_classes != classes:
            raise ValueError(
                f"pseudo_label: model has {model.num_classes} classes, the teacher {classes}; they must agree"
            )
        self._teacher.meets(model)
        inputs, parts = rows.inputs, []
        n = len(inputs) if isinstance(inputs, Tensor) else len(next(iter(inputs.values())))
        for start in range(0, n, batch_size):
            some = slice(start, start + batch_size)
            part = (
                inputs[some].to(model.device)
                if isinstance(inputs, Tensor)
                else {name: value[some].to(model.device) for name, value in inputs.items()}
            )
            logits = self._teacher(part, {"logits"}).logits
            if logits is None:
                raise ValueError("pseudo_label: the teacher gives no logits")
            parts.append(logits.float().softmax(1))
        self.proba = torch.cat(parts)
        if not self.kept().any():
            raise ValueError(
                f"pseudo_label: no row reaches threshold {self.threshold}; the surest is at "
                f"{float(self.proba.max()):.3f}, so lower it"
            )

    def kept(self) -> Tensor:
        """Return bool [rows]: which ones count."""
        return self.proba.amax(1) >= self.threshold

    def loss(
        self, model: Encoder, batch: TrainBatch, step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return `loss`, `accuracy` (agreement with the teacher's class) and `kept`, the share that counts.

        Raises:
            ValueError: The batch has no row numbers, or numbers that `begin` did not see.
        """
        if batch.row is None or len(self.proba) <= int(batch.row.max()):
            raise ValueError("pseudo_label: needs row numbers that begin() saw; call it with all rows")
        proba = self.proba[batch.row]
        sure, truth = proba.max(1)
        weight = (sure >= self.threshold).to(proba)
        kept = weight.mean()
        if batch.sample_weight is not None:
            weight = weight * batch.sample_weight
        logits = model(batch.inputs, want={"logits"}).logits.float()
        losses = F.cross_entropy(logits, proba if self.soft else truth, reduction="none")
        # A batch of which no row counts teaches nothing, and divides nothing by zero.
        weight = weight / weight.sum().clamp(min=torch.finfo(losses.dtype).tiny)
        correct = (logits.detach().argmax(1) == truth).to(losses)
        return {"loss": (losses * weight).sum(), "accuracy": (correct * weight).sum(), "kept": kept}
