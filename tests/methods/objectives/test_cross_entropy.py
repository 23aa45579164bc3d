"""Cross-entropy against its formula."""

from typing import Any, cast

import pytest
import torch

from ray_app.methods.encoders import Encoder, Features
from ray_app.methods.objectives import TrainBatch
from ray_app.methods.objectives.cross_entropy import CrossEntropy

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def loss(objective: CrossEntropy, **batch: Any) -> dict[str, torch.Tensor]:
    def model(inputs: torch.Tensor, want: object) -> Features:
        return Features(inputs, logits=inputs)

    return objective.loss(cast(Encoder, model), TrainBatch(LOGITS, **batch), 0, torch.Generator())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2, 0, 3, 0, 0.5])])
def test_follows_the_formula(smoothing: float, weight: torch.Tensor | None) -> None:
    target = torch.eye(4)[LABELS] * (1 - smoothing) + smoothing / 4
    each = -(target * LOGITS.log_softmax(1)).sum(1)
    share = torch.full((6,), 1 / 6) if weight is None else weight / weight.sum()
    got = loss(CrossEntropy(label_smoothing=smoothing), labels=LABELS, sample_weight=weight)
    torch.testing.assert_close(got["loss"], (each * share).sum())
    torch.testing.assert_close(got["accuracy"], ((LOGITS.argmax(1) == LABELS).float() * share).sum())


def test_no_weight_at_all_is_no_loss() -> None:
    assert float(loss(CrossEntropy(), labels=LABELS, sample_weight=torch.zeros(6))["loss"]) == 0


def test_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="no labels"):
        loss(CrossEntropy())
    with pytest.raises(ValueError, match=r"0\.1"):
        CrossEntropy(label_smoothing=1)
