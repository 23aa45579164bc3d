"""Early-learning regularisation against its formula, written as a loop."""

import math

import pytest
import torch

from ray_app.methods.objectives import TrainBatch
from ray_app.methods.objectives.early_learning import EarlyLearning
from ray_app.testing.objectives import CLASSES, TinyModel


def test_the_loss_and_the_memory_are_the_formula() -> None:
    model = TinyModel()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(5, 1, 4, 4, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1])
    objective = EarlyLearning(num_classes=CLASSES, strength=2.0, momentum=0.6)
    objective.begin(model, TrainBatch(pixels, labels, row=torch.arange(5)))
    memory = [[0.0] * CLASSES for _ in range(5)]
    for rows in ([3, 1], [1, 4, 0], [1, 3]):
        batch = TrainBatch(pixels[rows], labels[rows], row=torch.tensor(rows))
        got = objective.loss(model, batch, 0, generator)
        expected = 0.0
        proba = model(pixels[rows], {"logits"}).logits.softmax(1).tolist()
        for row, p in zip(rows, proba, strict=True):
            memory[row] = [
                0.6 * old + 0.4 * now / math.fsum(p) for old, now in zip(memory[row], p, strict=True)
            ]
            inner = sum(a * b for a, b in zip(memory[row], p, strict=True))
            expected += -math.log(p[labels[row]]) + 2.0 * math.log(1 - inner)
        assert got["loss"].item() == pytest.approx(expected / len(rows), rel=1e-5)
    torch.testing.assert_close(objective.targets, torch.tensor(memory))
    assert objective.relabel().tolist() == [row.index(max(row)) for row in memory]
    suspicion = [1 - memory[row][label] for row, label in enumerate(labels.tolist())]
    torch.testing.assert_close(objective.suspicion(labels), torch.tensor(suspicion))


def test_the_gradient_is_that_of_the_prediction_and_not_of_the_memory() -> None:
    model = TinyModel()
    pixels, labels = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(4) % 3
    batch = TrainBatch(pixels, labels, row=torch.arange(4))
    objective = EarlyLearning(num_classes=CLASSES, strength=3.0)
    objective.begin(model, batch)
    objective.loss(model, batch, 0, torch.Generator())["loss"].backward()
    got = model.head.weight.grad.clone()
    logits = model(pixels, {"logits"}).logits
    memory = objective.targets.clone()  # a constant
    proba = logits.softmax(1)
    loss = torch.nn.functional.cross_entropy(logits, labels) + 3 * (1 - (proba * memory).sum(1)).log().mean()
    (expected,) = torch.autograd.grad(loss, model.head.weight)
    torch.testing.assert_close(got, expected)


def test_a_sure_prediction_stays_finite() -> None:
    model = TinyModel()
    with torch.no_grad():
        model.head.weight.mul_(1e4)
    batch = TrainBatch(torch.rand(3, 1, 4, 4), torch.arange(3), row=torch.arange(3))
    objective = EarlyLearning(num_classes=CLASSES, momentum=0.0)
    objective.begin(model, batch)
    for _ in range(3):
        assert torch.isfinite(objective.loss(model, batch, 0, torch.Generator())["loss"])


def test_what_it_needs() -> None:
    model, objective = TinyModel(), EarlyLearning(num_classes=CLASSES)
    pixels = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match="row 1 of 0; call begin"):
        objective.loss(model, TrainBatch(pixels, torch.arange(2), row=torch.arange(2)), 0, torch.Generator())
    with pytest.raises(ValueError, match="needs labels"):
        objective.loss(model, TrainBatch(pixels, None, row=torch.arange(2)), 0, torch.Generator())
    with pytest.raises(ValueError, match=r"momentum must be in 0\.\.1, below 1, got 1"):
        EarlyLearning(num_classes=3, momentum=1)
    with pytest.raises(ValueError, match="strength must be >= 0, got -1"):
        EarlyLearning(num_classes=3, strength=-1)
