"""FGSM: one step of the full budget, up the loss.

    x' = clip(x + eps * sign(grad_x cross_entropy(model(x), y)), 0, 1)

Reference: I. Goodfellow, J. Shlens, C. Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015,
    https://arxiv.org/abs/1412.6572
Cost: one forward and one backward pass.
"""

from torch import Tensor

from ray_app.methods.encoders import Encoder
from ray_app.methods.transforms._attack import Attack


class FGSM(Attack):
    """The cheapest attack; one that a guard must notice.

    Args:
        eps: Change of a pixel, in pixel units (0..1).
        model: What is attacked; the engine supplies it.
    """

    name = "fgsm"

    def __init__(self, *, eps: float = 0.03, model: Encoder) -> None:
        super().__init__(eps=eps, model=model)

    def _moved(self, pixels: Tensor, labels: Tensor) -> Tensor:
        return (pixels + self.eps * self._gradient(pixels, labels).sign()).clamp(0, 1)
