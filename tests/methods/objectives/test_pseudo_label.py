"""Pseudo labels against cross-entropy on what the teacher says."""

import pytest
import torch
from torch import nn

from ray_app.methods.objectives import TrainBatch
from ray_app.methods.objectives.pseudo_label import PseudoLabel
from ray_app.testing.objectives import TinyModel

PIXELS = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
ROWS = TrainBatch(PIXELS, torch.zeros(40, dtype=torch.int64), row=torch.arange(40))


def begun(**options: float) -> tuple[PseudoLabel, TinyModel, torch.Tensor]:
    teacher, model = TinyModel(seed=3), TinyModel()
    with torch.no_grad():
        teacher.head.weight.mul_(3)
    objective = PseudoLabel(teacher=teacher, **options)
    objective.begin(model, ROWS, batch_size=7)
    return objective, model, teacher(PIXELS, {"logits"}).logits.softmax(1).detach()


@pytest.mark.parametrize("soft", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_the_loss_is_cross_entropy_with_the_teachers_word(threshold: float, soft: int) -> None:
    objective, model, proba = begun(threshold=threshold, soft=bool(soft))
    torch.testing.assert_close(objective.proba, proba)
    rows = torch.tensor([5, 31, 2, 17, 8, 39, 20])
    got = objective.loss(model, TrainBatch(PIXELS[rows], row=rows), 0, torch.Generator())
    total = count = 0.0
    for row in rows.tolist():
        if proba[row].max() < threshold:
            continue
        logits = model(PIXELS[row : row + 1], {"logits"}).logits
        truth = proba[row : row + 1] if soft else proba[row : row + 1].argmax(1)
        total += nn.functional.cross_entropy(logits, truth).item()
        count += 1
    assert 0 < count < len(rows) or not threshold
    assert got["loss"].item() == pytest.approx(total / count, rel=1e-5)
    assert got["kept"].item() == pytest.approx(count / len(rows))


def test_the_labels_that_rows_have_are_not_read() -> None:
    objective, model, _ = begun()
    losses = [
        objective.loss(model, TrainBatch(PIXELS, labels, row=torch.arange(40)), 0, torch.Generator())["loss"]
        for labels in (None, torch.zeros(40, dtype=torch.int64), torch.full((40,), 99))
    ]
    assert losses[0] == losses[1] == losses[2]


def test_the_teacher_is_left_as_it_is_and_does_not_train() -> None:
    objective, model, _ = begun()
    objective.train()
    assert list(objective.state_dict()) == ["proba"]
    groups = [p for group in objective.parameter_groups(model) for p in group["params"]]
    assert {id(p) for p in groups} == {id(p) for p in model.parameters()}


def test_what_cannot_be() -> None:
    with pytest.raises(
        ValueError, match=r"no row reaches threshold 0\.999; the surest is at 0\.\d+, so lower it"
    ):
        begun(threshold=0.999)
    with pytest.raises(ValueError, match=r"threshold must be in 0\.\.1, below 1, got 1"):
        PseudoLabel(teacher=TinyModel(), threshold=1)
    same = TinyModel()
    with pytest.raises(ValueError, match="the teacher is the model that trains"):
        PseudoLabel(teacher=same).begin(same, ROWS)
    wider = TinyModel()
    wider.num_classes = 4
    with pytest.raises(ValueError, match="model has 4 classes, the teacher 3"):
        PseudoLabel(teacher=TinyModel(seed=1)).begin(wider, ROWS)
    with pytest.raises(ValueError, match="call it with all rows"):
        PseudoLabel(teacher=TinyModel()).loss(same, ROWS, 0, torch.Generator())
