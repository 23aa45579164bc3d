"""What attacks share: images a little changed so that a model errs, within a budget in pixel units."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ray_app.methods.encoders import Encoder
from ray_app.methods.transforms import Transform

if TYPE_CHECKING:
    from ray_app.methods import Batch


class Attack(Transform):
    """Moves each row of `image` against its `label`, by at most eps a pixel.

    The result is float32 0..1 [n, h, w, c] at the model's input size: whatever resizes or rounds it
    afterwards weakens the attack.

    Args:
        eps: Largest change of a pixel, in pixel units (0..1).
        model: What is attacked, an encoder with a classifier; the engine supplies it. It is run in eval mode.
    """

    name: ClassVar[str]
    columns = ("image", "label")

    def __init__(self, *, eps: float, model: Encoder) -> None:
        if not 0 <= eps <= 1:
            raise ValueError(
                f"{self.name}: eps must be in 0..1, in pixel units, got {eps!r}; try 8 / 255 = 0.031"
            )
        if model.modality != "image" or not model.num_classes:
            raise ValueError(
                f"{self.name}: attacks an image model with a classifier; give one with num_classes > 0"
            )
        self.eps = eps
        self.model = model

    def __call__(self, batch: "Batch") -> "Batch":
        """Return a batch whose images are attacked.

        Raises:
            ValueError: A row cannot be read, or a label is not one of the model's classes.
        """
        inputs = self.model.preprocess(batch)
        if not isinstance(inputs, Tensor):
            raise ValueError(f"{self.name}: the model's inputs are no single tensor of pixels")
        labels = torch.from_numpy(np.asarray(batch["label"]).astype(np.int64))
        bad = ((labels < 0) | (labels >= self.model.num_classes)).nonzero()
        if len(bad):
            row = int(bad[0])
            raise ValueError(
                f"row {row}: label {int(labels[row])}; the model has classes 0..{self.model.num_classes - 1}"
            )
        attacked = self.perturb(inputs, labels).cpu().numpy()
        return {**batch, "image": np.ascontiguousarray(np.moveaxis(attacked, 1, -1))}

    def perturb(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return attacked pixels.

        Args:
            inputs: [n, c, h, w], uint8 0..255 or float 0..1.
            labels: int64 [n]: the true classes.

        Returns:
            Float32 0..1 [n, c, h, w] on the model's device.
        """
        device = self.model.device
        pixels = inputs.to(device).float() / 255 if inputs.dtype == torch.uint8 else inputs.to(device).float()
        if not len(pixels):
            return pixels
        was_training = self.model.training
        self.model.eval()
        try:
            # The engine may be in inference mode; gradients need tensors that were made outside of it.
            with torch.inference_mode(mode=False):
                return self._moved(pixels.detach().clone(), labels.to(device).clone())
        finally:
            self.model.train(was_training)

    @abstractmethod
    def _moved(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return pixels within eps of the given ones and within 0..1."""

    def _gradient(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient of the summed cross-entropy with respect to the pixels."""
        with torch.enable_grad():
            pixels = pixels.detach().requires_grad_()
            logits = self.model(pixels, {"logits"}).logits
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), pixels)
        return gradient
