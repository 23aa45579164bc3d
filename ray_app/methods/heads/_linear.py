"""What heads that are linear in the features share: one matrix product, and classes never seen."""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from ray_app.errors import NotFittedError
from ray_app.methods._checks import matrix
from ray_app.methods.encoders import Features
from ray_app.methods.heads import Head


class Linear(NamedTuple):
    """logits = (x - origin) @ weight.T + bias; an unseen class has weight 0 and bias -inf."""

    weight: Tensor
    """float64 [c, d]"""
    bias: Tensor
    """float64 [c]"""
    origin: Tensor
    """float64 [d]"""


class LinearHead(Head):
    """Class probabilities as the softmax of a linear function of the features (after `_rows`).

    Args:
        num_classes: c, where it is known; None: the largest label seen plus one.
    """

    name: str

    def __init__(self, *, num_classes: int | None = None) -> None:
        super().__init__()
        if num_classes is not None and num_classes < 1:
            raise ValueError(
                f"{self.name}: num_classes must be >= 1, got {num_classes!r}; leave it out to learn it"
            )
        self.num_classes = num_classes

    def logits(self, features: Features) -> Tensor:
        """Return float64 [n, c]: the logarithms of unnormalised probabilities; -inf for a class never seen.

        Raises:
            NotFittedError: Nothing was learned yet.
            ValueError: The features' width is not the fitted one.
        """
        if not self._fitted():
            raise NotFittedError(f"{self.name}: nothing learned yet; call fit() or load a bundle")
        linear = self.derive("linear", self._linear)
        x = self._rows(matrix(features.pooled, self.name, linear.weight.shape[1]).double())
        return (x - linear.origin) @ linear.weight.T + linear.bias

    def predict_proba(self, features: Features) -> Tensor:
        """Return float32 [n, c] for features.pooled [n, d]; each row sums to 1.

        Raises:
            NotFittedError: Nothing was learned yet.
            ValueError: The features' width is not the fitted one.
        """
        return torch.softmax(self.logits(features), 1).float()

    def to_linear(self) -> tuple[Tensor, Tensor]:
        """Return weight [c, d] and bias [c], float64; softmax(x @ weight.T + bias) is predict_proba.

        x is what the head sees: features.pooled, after the normalisation that its options ask for.

        Raises:
            NotFittedError: Nothing was learned yet.
        """
        if not self._fitted():
            raise NotFittedError(f"{self.name}: nothing learned yet; call fit() or load a bundle")
        weight, bias, origin = self.derive("linear", self._linear)
        return weight, bias - weight @ origin

    def _rows(self, x: Tensor) -> Tensor:
        """What is done to float64 rows first; nothing by default."""
        return x

    @abstractmethod
    def _fitted(self) -> bool: ...

    @abstractmethod
    def _linear(self) -> Linear: ...


def unit_rows(x: Tensor) -> Tensor:
    """Return x [n, d] with rows of length 1; a row of zeros stays."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / torch.where(length > 0, length, 1)
