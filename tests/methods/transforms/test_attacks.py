"""FGSM and BIM against independent loops on a model whose gradient can be written down."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ray_app.methods.encoders import Encoder, Features
from ray_app.methods.transforms.bim import BIM
from ray_app.methods.transforms.fgsm import FGSM


class Softmaxed(Encoder):
    """Two layers on 3 x 3 pixels: logits = V tanh(W x); dropout shows whether eval mode is kept."""

    modality = "image"
    dim = 6
    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.first = torch.nn.Parameter(torch.from_numpy(rng.normal(size=(9, 6)).astype(np.float32)))
        self.second = torch.nn.Parameter(torch.from_numpy(rng.normal(size=(6, 4)).astype(np.float32)))
        self.dropout = torch.nn.Dropout(0.5)

    def preprocess(self, batch: Any) -> Tensor:
        return torch.from_numpy(np.moveaxis(batch["image"], -1, 1).copy())

    def forward(self, inputs: Any, want: Collection[str] = ()) -> Features:
        pixels = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
        hidden = torch.tanh(pixels.flatten(1) @ self.first)
        return Features(hidden, logits=self.dropout(hidden @ self.second), inputs=inputs)

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        raise NotImplementedError


MODEL = Softmaxed()
IMAGES = np.random.default_rng(1).random((20, 3, 3, 1)).astype(np.float32)
LABELS = np.arange(20) % 4
BATCH = {"row_id": np.arange(20).astype(str), "image": IMAGES, "label": LABELS}


def gradient(pixels: np.ndarray, label: int) -> np.ndarray:
    """The chain rule by hand, in float64."""
    first, second = MODEL.first.detach().double().numpy(), MODEL.second.detach().double().numpy()
    hidden = np.tanh(pixels.ravel() @ first)
    logits = hidden @ second
    proba = np.exp(logits - logits.max())
    proba /= proba.sum()
    proba[label] -= 1
    return (first @ ((1 - hidden**2) * (second @ proba))).reshape(3, 3, 1)


def loss(images: np.ndarray) -> float:
    logits = MODEL.eval()(torch.from_numpy(np.moveaxis(images, -1, 1).copy())).logits.detach()
    return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS)))


def test_fgsm_is_one_step_along_the_sign() -> None:
    expected = [
        np.clip(x + 0.1 * np.sign(gradient(x.astype(float), y)), 0, 1)
        for x, y in zip(IMAGES, LABELS, strict=True)
    ]
    np.testing.assert_allclose(FGSM(eps=0.1, model=MODEL)(BATCH)["image"], expected, atol=1e-5)


def test_bim_is_many_clipped_steps() -> None:
    expected = []
    for x, y in zip(IMAGES.astype(float), LABELS, strict=True):
        moved = x
        for _ in range(7):
            moved = np.clip(moved + 0.03 * np.sign(gradient(moved, y)), x - 0.1, x + 0.1).clip(0, 1)
        expected.append(moved)
    attacked = BIM(eps=0.1, steps=7, step_size=0.03, model=MODEL)(BATCH)["image"]
    np.testing.assert_allclose(attacked, expected, atol=1e-5)


def test_attacks_raise_the_loss_within_their_budget() -> None:
    fgsm = FGSM(eps=0.2, model=MODEL)(BATCH)["image"]
    bim = BIM(eps=0.2, model=MODEL)(BATCH)["image"]
    assert loss(bim) > loss(fgsm) > loss(IMAGES)
    for attacked in (fgsm, bim):
        assert attacked.dtype == np.float32
        assert attacked.shape == IMAGES.shape
        assert np.abs(attacked - IMAGES).max() <= 0.2 + 1e-6
        assert attacked.min() >= 0
        assert attacked.max() <= 1


def test_bytes_are_attacked_in_pixel_units() -> None:
    bytes_ = np.rint(IMAGES * 255).astype(np.uint8)
    attacked = FGSM(eps=0.1, model=MODEL)({**BATCH, "image": bytes_})["image"]
    assert np.abs(attacked - bytes_ / 255).max() == pytest.approx(0.1, abs=1e-6)


def test_the_model_is_left_as_it_was() -> None:
    model = Softmaxed().train()
    with torch.inference_mode():
        first = FGSM(eps=0.1, model=model)(BATCH)["image"]
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    np.testing.assert_array_equal(first, FGSM(eps=0.1, model=model.eval())(BATCH)["image"])


def test_a_foreign_label_is_named() -> None:
    with pytest.raises(ValueError, match=r"row 1: label 9; the model has classes 0..3"):
        FGSM(model=MODEL)({**BATCH, "label": np.array([0, 9] * 10)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FGSM(eps=8, model=MODEL), "8 / 255"),
        (lambda: BIM(steps=0, model=MODEL), "try 10"),
        (lambda: BIM(step_size=0, model=MODEL), "leave it out"),
    ],
)
def test_bad_options(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_model_without_classifier_is_refused() -> None:
    model = Softmaxed()
    model.num_classes = 0
    with pytest.raises(ValueError, match="num_classes > 0"):
        FGSM(model=model)
