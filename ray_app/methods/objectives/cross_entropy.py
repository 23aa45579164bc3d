"""Cross-entropy: minus the log probability of the true class.

    loss = sum_i w_i ( -sum_c q_ic log softmax(z_i)_c ) / sum_i w_i        in nats
    q_ic = (1 - label_smoothing) [c = y_i] + label_smoothing / c

Reference: C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016 (label
    smoothing), https://arxiv.org/abs/1512.00567
Cost: one forward pass.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_app.methods.objectives import Objective, TrainBatch

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder


class CrossEntropy(Objective):
    """The default for labelled rows; `sample_weight` counts a row more or less, 0 leaves it out.

    Args:
        label_smoothing: Share of the truth that is spread over all classes.
    """

    labels = "soft"

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"cross_entropy: label_smoothing must be in 0..1, got {label_smoothing!r}; try 0.1"
            )
        self.label_smoothing = label_smoothing

    def loss(
        self,
        model: "Encoder",
        batch: TrainBatch,
        step: int,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Return `loss` in nats, and `accuracy` of the batch, both weighted by sample_weight.

        Raises:
            ValueError: The batch has no labels, or the model no classifier.
        """
        if batch.labels is None:
            raise ValueError(
                "cross_entropy: the batch has no labels; give a labelled dataset or another objective"
            )
        logits = model(batch.inputs, want={"logits"}).logits
        losses = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing, reduction="none")
        truth = batch.labels if batch.labels.ndim == 1 else batch.labels.argmax(1)
        correct = (logits.detach().argmax(1) == truth).float()
        if batch.sample_weight is None:
            return {"loss": losses.mean(), "accuracy": correct.mean()}
        # All weights zero: nothing to learn, and no division by zero.
        weight = batch.sample_weight / batch.sample_weight.sum().clamp(min=torch.finfo(losses.dtype).tiny)
        return {"loss": (losses * weight).sum(), "accuracy": (correct * weight).sum()}
