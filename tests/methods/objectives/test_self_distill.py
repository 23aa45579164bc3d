"""Self-distillation against its formula; padding, gradients, and what it refuses."""

from dataclasses import replace

import pytest
import torch

from ray_app.methods.objectives import TrainBatch
from ray_app.methods.objectives.self_distill import SelfDistill
from ray_app.testing.objectives import TinyModel

PIXELS = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Ragged(TinyModel):
    """Rows of 1 to 4 tokens."""

    def forward(self, inputs, want=()):
        return replace(super().forward(inputs, want), lengths=torch.tensor([1, 4, 2, 3, 4, 1]))


@pytest.mark.parametrize("kind", [TinyModel, Ragged])
def test_the_loss_is_the_mean_square_over_tokens_and_width(kind: type[TinyModel]) -> None:
    student, teacher = kind(seed=0), kind(seed=1)
    mine, theirs = (model(PIXELS, {"tokens"}) for model in (student, teacher))
    each = [
        sum(
            (mine.tokens[row, token, i] - theirs.tokens[row, token, i]).item() ** 2
            for token in range(length)
            for i in range(8)
        )
        / (8 * length)
        for row, length in enumerate(mine.lengths.tolist())
    ]
    got = SelfDistill(teacher=teacher).loss(student, TrainBatch(PIXELS), 0, torch.Generator())
    assert got["loss"].item() == pytest.approx(sum(each) / 6, rel=1e-5)
    weight = torch.tensor([1.0, 0, 2, 0, 0, 1])
    weighted = SelfDistill(teacher=teacher).loss(
        student, TrainBatch(PIXELS, sample_weight=weight), 0, torch.Generator()
    )
    expected = sum(w * e for w, e in zip(weight.tolist(), each, strict=True)) / 4
    assert weighted["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_pooled_features_do_where_there_are_no_tokens() -> None:
    student, teacher = TinyModel(seed=0), TinyModel(seed=1)
    got = SelfDistill(teacher=teacher, hidden="pooled").loss(
        student, TrainBatch(PIXELS), 0, torch.Generator()
    )
    expected = (student(PIXELS).pooled - teacher(PIXELS).pooled).square().mean()
    torch.testing.assert_close(got["loss"], expected)


def test_the_student_moves_and_the_teacher_does_not() -> None:
    student, teacher = TinyModel(seed=0), TinyModel(seed=1)
    objective = SelfDistill(teacher=teacher)
    objective.begin(student, TrainBatch(PIXELS))
    objective.train()
    assert not teacher.training
    objective.loss(student, TrainBatch(PIXELS), 0, torch.Generator())["loss"].backward()
    assert student.patches.weight.grad.any()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not objective.state_dict()


def test_what_it_refuses() -> None:
    class Longer(TinyModel):
        def forward(self, inputs, want=()):
            found = super().forward(inputs, want)
            return replace(found, tokens=torch.cat([found.tokens, found.tokens], 1))

    with pytest.raises(ValueError, match=r"tokens are \[6, 4, 8\], the teacher's \[6, 8, 8\]"):
        SelfDistill(teacher=Longer()).loss(TinyModel(), TrainBatch(PIXELS), 0, torch.Generator())
    with pytest.raises(ValueError, match="hidden must be tokens or pooled, got 'layers'"):
        SelfDistill(teacher=TinyModel(), hidden="layers")
    same = TinyModel()
    with pytest.raises(ValueError, match="give a model of its own"):
        SelfDistill(teacher=same).begin(same, TrainBatch(PIXELS))
