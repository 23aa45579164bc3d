"""What detectors that only read logits share: they learn nothing."""

from collections.abc import Set as AbstractSet
from typing import ClassVar, Self

from torch import Tensor

from ray_app.methods._checks import matrix, some
from ray_app.methods.detectors import Detector
from ray_app.methods.encoders import Features


class LogitDetector(Detector):
    """A formula of the logits.

    Args:
        temperature: Divides the logits first.
    """

    name: ClassVar[str]
    needs: AbstractSet[str] = frozenset({"logits"})

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"{self.name}: temperature must be > 0, got {temperature!r}; leave it out for 1")
        self.temperature = temperature

    def fit(self, features: Features, labels: Tensor | None = None) -> Self:
        """Learn nothing; check that the features have logits [n, c].

        Raises:
            ValueError: No rows, or no logits.
        """
        some(len(features), self.name)
        self._logits(features)
        return self

    def partial_fit(self, features: Features, labels: Tensor | None = None) -> Self:
        """Learn nothing."""
        return self

    def merge(self, other: Self) -> Self:
        """Learn nothing."""
        return self

    def _logits(self, features: Features) -> Tensor:
        """float64 [n, c], divided by the temperature: float32 rounds confident rows to one probability."""
        if features.logits is None:
            raise ValueError(
                f"{self.name}: the features have no logits; want logits, from an encoder with a classifier"
            )
        return matrix(features.logits, self.name).double() / self.temperature
