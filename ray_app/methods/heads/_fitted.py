"""What linear heads that scikit-learn fits share."""

from abc import abstractmethod
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ray_app.methods._checks import finite, indices, matrix, some
from ray_app.methods.encoders import Features
from ray_app.methods.heads._linear import Linear, LinearHead


class FittedLinear(LinearHead):
    """A linear head whose weights are found by an optimiser, on the CPU.

    Args:
        num_classes: c, where it is known; None: the largest label seen plus one.
    """

    weight: Tensor  # float64 [c, d]; 0 for a class that was not seen
    bias: Tensor  # float64 [c]; -inf for a class that was not seen

    def __init__(self, *, num_classes: int | None) -> None:
        super().__init__(num_classes=num_classes)
        self.register_buffer("weight", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(0, dtype=torch.float64))

    def fit(self, features: Features, labels: Tensor) -> Self:
        """Forget, then learn from features.pooled [n, d] and labels int64 [n].

        Raises:
            ValueError: No rows, rows that are not finite, or bad labels.
        """
        n = len(features)
        some(n, self.name)
        y = indices(labels, n, self.name, self.num_classes).cpu().numpy()
        x = finite(matrix(features.pooled.detach(), self.name), self.name)
        rows = self._rows(x.double()).cpu().numpy()
        seen = np.unique(y)
        c = self.num_classes or int(seen[-1]) + 1
        weight, bias = np.zeros((c, rows.shape[1])), np.full(c, -np.inf)
        # With one class there is nothing to tell apart, and scikit-learn refuses.
        weight[seen], bias[seen] = self._solve(rows, y) if len(seen) > 1 else (0.0, 0.0)
        device = self.weight.device
        self.weight, self.bias = torch.from_numpy(weight).to(device), torch.from_numpy(bias).to(device)
        return self

    @abstractmethod
    def _solve(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weight [seen, d] and bias [seen] of at least two classes, in the order of their numbers."""

    def _fitted(self) -> bool:
        return len(self.bias) > 0

    def _linear(self) -> Linear:
        return Linear(self.weight.clone(), self.bias.clone(), self.weight.new_zeros(self.weight.shape[1]))


def both_sides(weight: np.ndarray, bias: np.ndarray, *, halve: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a row for each of two classes from scikit-learn's one; more classes come back as they are.

    Args:
        weight: [1, d] or [c, d].
        bias: [1] or [c].
        halve: The difference of the two logits, not each of them, is what was fitted.
    """
    if len(weight) > 1:
        return weight, bias
    scale = 0.5 if halve else 1.0
    return scale * np.concatenate([-weight, weight]), scale * np.concatenate([-bias, bias])
