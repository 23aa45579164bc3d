"""BIM: many small steps up the loss, never farther than the budget.

    x_0 = x,   x_{t+1} = clip(x_t + step_size * sign(grad cross_entropy(model(x_t), y)), x - eps, x + eps),
    within 0..1

Reference: A. Kurakin, I. Goodfellow, S. Bengio, "Adversarial Examples in the Physical World", 2016,
    https://arxiv.org/abs/1607.02533
Departure: the paper's step is 1/255 and the number of steps follows from eps; here both are options.
Cost: a forward and a backward pass a step.
"""

from torch import Tensor

from ray_app.methods.encoders import Encoder
from ray_app.methods.transforms._attack import Attack

# Of the budget that all steps together could go, were it not clipped: room to turn.
_REACH = 2.0


class BIM(Attack):
    """Stronger than fgsm at the same budget.

    Args:
        eps: Largest change of a pixel, in pixel units (0..1).
        steps: How many.
        step_size: Change of a pixel in one step; None: twice eps over the steps.
        model: What is attacked; the engine supplies it.
    """

    name = "bim"

    def __init__(
        self, *, eps: float = 0.03, steps: int = 10, step_size: float | None = None, model: Encoder
    ) -> None:
        super().__init__(eps=eps, model=model)
        if steps < 1:
            raise ValueError(f"bim: steps must be >= 1, got {steps!r}; try 10")
        if step_size is not None and not step_size > 0:
            raise ValueError(f"bim: step_size must be > 0, in pixel units, got {step_size!r}; leave it out")
        self.steps = steps
        self.step_size = step_size if step_size is not None else _REACH * eps / steps

    def _moved(self, pixels: Tensor, labels: Tensor) -> Tensor:
        low, high = (pixels - self.eps).clamp(min=0), (pixels + self.eps).clamp(max=1)
        moved = pixels
        for _ in range(self.steps):
            moved = (moved + self.step_size * self._gradient(moved, labels).sign()).clamp(low, high)
        return moved
