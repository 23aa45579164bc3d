"""Distillation against its formulas in float64, and what it leaves alone."""

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.encoders import Encoder, Features
from ray_app.methods.objectives import TrainBatch

STUDENT, TEACHER = (3 * torch.randn(7, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
WEIGHT = torch.tensor([1.0, 2, 0, 3, 0, 0.5, 1])


class Linear(Encoder):
    """Logits from a layer, with dropout: train mode answers otherwise than eval mode."""

    modality, dim, num_classes = "tensor", 4, 4

    def __init__(self, seed: int, classes: int = 4) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.layer = nn.utils.skip_init(nn.Linear, 4, classes)
        nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.layer.bias)

    def forward(self, inputs: Tensor, want: object = ()) -> Features:
        return Features(inputs, logits=self.layer(self.drop(inputs)))

    def portable(self) -> tuple[dict, dict]:
        return {}, {}


def as_they_are(inputs: Tensor, want: object) -> Features:
    return Features(inputs, logits=inputs)


as_they_are.device = torch.device("cpu")  # type: ignore[attr-defined]


def stored(logits: Tensor, options: dict[str, Any], **batch: Any) -> dict[str, Tensor]:
    objective = registry.build("objectives", "distill", options)
    made = TrainBatch(logits, columns={"teacher_logits": TEACHER.numpy()}, **batch)
    return objective.loss(cast(Encoder, as_they_are), made, 0, torch.Generator())


def by_hand(divergence: str, temperature: float) -> Tensor:
    s, t = ((z.double() / temperature).softmax(1) for z in (STUDENT, TEACHER))
    m = (s + t) / 2
    each = {
        "js": ((s * (s / m).log()).sum(1) + (t * (t / m).log()).sum(1)) / 2,
        "cross_entropy": -(t * s.log()).sum(1),
        "kl": (t * (t / s).log()).sum(1),
    }
    return temperature**2 * each[divergence]


@pytest.mark.parametrize("divergence", ["js", "cross_entropy", "kl"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_follows_the_formula(divergence: str, temperature: float, weight: Tensor | None) -> None:
    share = torch.full((7,), 1 / 7) if weight is None else weight / weight.sum()
    got = stored(STUDENT, {"divergence": divergence, "temperature": temperature}, sample_weight=weight)
    expected = (by_hand(divergence, temperature) * share).sum()
    torch.testing.assert_close(got["loss"].double(), expected, rtol=1e-5, atol=1e-6)
    agrees = (STUDENT.argmax(1) == TEACHER.argmax(1)).float()
    torch.testing.assert_close(got["agreement"], (agrees * share).sum())


def test_js_is_symmetric_bounded_and_finite_where_both_are_sure() -> None:
    sure = torch.zeros(7, 4)
    sure[:, 0] = 1e4
    opposed = sure.roll(1, 1).requires_grad_()
    objective = registry.build("objectives", "distill", {})
    model = cast(Encoder, as_they_are)

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        batch = TrainBatch(student, columns={"teacher_logits": teacher.detach()})
        return objective.loss(model, batch, 0, torch.Generator())["loss"]

    found = loss(opposed, sure)
    found.backward()
    assert found.item() == pytest.approx(math.log(2))
    assert opposed.grad is not None
    assert opposed.grad.isfinite().all()
    torch.testing.assert_close(loss(STUDENT, TEACHER), loss(TEACHER, STUDENT))
    assert loss(STUDENT, STUDENT).item() == pytest.approx(0, abs=1e-6)


def test_cross_entropy_and_kl_have_the_same_gradient() -> None:
    slopes = []
    for divergence in ("cross_entropy", "kl"):
        student = STUDENT.clone().requires_grad_()
        stored(student, {"divergence": divergence})["loss"].backward()
        slopes.append(student.grad)
    torch.testing.assert_close(*slopes)


def test_a_live_teacher_is_asked_in_eval_mode_and_never_trains() -> None:
    teacher, student = Linear(1), Linear(2).train()
    objective = registry.build("objectives", "distill", {}, teacher=teacher)
    objective.train()
    batch = TrainBatch(STUDENT, labels=torch.full((7,), -5))  # labels are not looked at
    student.drop.p = 0.0
    found = objective.loss(student, batch, 0, torch.Generator())
    column = {"teacher_logits": teacher(STUDENT).logits.detach()}
    same = registry.build("objectives", "distill").loss(
        student, TrainBatch(STUDENT, columns=column), 0, torch.Generator()
    )
    torch.testing.assert_close(found["loss"], same["loss"])
    found["loss"].backward()
    assert student.layer.weight.grad is not None
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    trained = [p for group in objective.parameter_groups(student) for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in student.parameters()}
    assert objective.state_dict() == {}


def test_says_what_is_missing() -> None:
    student = Linear(0)
    batch = TrainBatch(STUDENT)
    with pytest.raises(ValueError, match="no teacher, and no column 'teacher_logits'"):
        registry.build("objectives", "distill").loss(student, batch, 0, torch.Generator())
    with pytest.raises(ValueError, match="the teacher is the model that trains"):
        registry.build("objectives", "distill", {}, teacher=student).loss(
            student, batch, 0, torch.Generator()
        )
    with pytest.raises(ValueError, match=r"student has logits \(7, 4\), the teacher \(7, 3\)"):
        registry.build("objectives", "distill", {}, teacher=Linear(1, classes=3)).loss(
            Linear(0), batch, 0, torch.Generator()
        )
    with pytest.raises(SpecError, match="divergence must be one of js, cross_entropy, kl, got 'l2'"):
        registry.build("objectives", "distill", {"divergence": "l2"})
    with pytest.raises(SpecError, match="temperature must be > 0, got 0"):
        registry.build("objectives", "distill", {"temperature": 0})
