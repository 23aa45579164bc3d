"""Early-learning regularisation: cross-entropy, held near what the model predicted early in training.

    loss = mean_i( -log p_i[y_i] + strength log(1 - <p_i, t_i>) )        in nats
    t_i <- momentum t_i + (1 - momentum) p_i / sum(p_i)                  no gradient; at first t_i = 0

p_i: softmax, clamped to 1e-4 .. 1 - 1e-4. The second term is negative and falls as p_i comes to agree with
the memory t_i of its row: it cancels the pull of a wrong label, and keeps that of a right one.

Reference: S. Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels" (ELR), NeurIPS
    2020, https://arxiv.org/abs/2007.00151
Departure: one network; the paper's ELR+ (two networks, averaged weights, mixup) is not here, but averaged
    weights are a setting of training (`ema`).
Cost: one forward pass; a memory of float32 [rows, c].
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_app.methods.objectives import Objective, TrainBatch

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder

_FLOOR = 1e-4


class EarlyLearning(Objective):
    """For labels some of which are wrong. Judge it by the last epoch: the best one needs rows known right.

    Args:
        num_classes: Width c of the logits.
        strength: Weight of the second term; the paper's are 1 to 7. Too much, and rare classes vanish.
        momentum: How slowly the memory follows.
    """

    rows_apart = False

    targets: Tensor  # float32 [rows, c]: the memory t

    def __init__(self, *, num_classes: int, strength: float = 3.0, momentum: float = 0.7) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"early_learning: num_classes must be >= 2, got {num_classes!r}")
        if not strength >= 0:
            raise ValueError(f"early_learning: strength must be >= 0, got {strength!r}; try 3")
        if not 0 <= momentum < 1:
            raise ValueError(f"early_learning: momentum must be in 0..1, below 1, got {momentum!r}; try 0.7")
        self.num_classes = num_classes
        self.strength = strength
        self.momentum = momentum
        self.register_buffer("targets", torch.zeros(0, num_classes))

    def begin(self, model: "Encoder", rows: TrainBatch) -> None:
        """Remember nothing of each row."""
        if rows.row is None:
            raise ValueError("early_learning: rows must be counted; give `row` to the batch")
        self.targets = self.targets.new_zeros(len(rows.row), self.num_classes)

    def loss(
        self, model: "Encoder", batch: TrainBatch, step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return `loss`, its two terms `cross_entropy` and `agreement`, and `accuracy` on the labels given.

        Raises:
            ValueError: The batch has no labels or no row numbers, or numbers that `begin` did not see.
        """
        labels, row = batch.labels, batch.row
        if labels is None or labels.ndim != 1 or row is None:
            raise ValueError("early_learning: needs labels [n] and row numbers [n]; the batch lacks them")
        if len(self.targets) <= int(row.max()):
            raise ValueError(
                f"early_learning: row {int(row.max())} of {len(self.targets)}; call begin() with all rows"
            )
        logits = model(batch.inputs, want={"logits"}).logits.float()
        proba = logits.softmax(1).clamp(_FLOOR, 1 - _FLOOR)
        with torch.no_grad():
            now = proba / proba.sum(1, keepdim=True)
            memory = self.momentum * self.targets[row] + (1 - self.momentum) * now
            self.targets[row] = memory
        weight = _shares(batch.sample_weight, logits)
        wrong = (F.cross_entropy(logits, labels, reduction="none") * weight).sum()
        agreement = (torch.log1p(-(proba * memory).sum(1)) * weight).sum()
        return {
            "loss": wrong + self.strength * agreement,
            "cross_entropy": wrong.detach(),
            "agreement": agreement.detach(),
            "accuracy": ((logits.argmax(1) == labels).float() * weight).sum().detach(),
        }

    def relabel(self) -> Tensor:
        """Return int64 [rows]: the class that the memory holds of each row; 0 for one that was never seen."""
        return self.targets.argmax(1)

    def suspicion(self, labels: Tensor) -> Tensor:
        """Return float32 [rows] in 0..1: how little the memory agrees with the labels int64 [rows]."""
        return 1 - self.targets.gather(1, labels[:, None].to(self.targets.device))[:, 0]


def _shares(weight: Tensor | None, like: Tensor) -> Tensor:
    """Each row's share of the mean; all weights zero: none, and no division by zero."""
    if weight is None:
        return like.new_full((len(like),), 1 / len(like))
    return weight / weight.sum().clamp(min=torch.finfo(like.dtype).tiny)
