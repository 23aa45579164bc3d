"""Scorers turn a raw batch into one number a row: quality, difficulty, membership."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    import numpy as np

    from ray_app.methods import Batch


class Scorer(ABC):
    """A batch to numbers. One bad row must not harm the others: it gets NaN."""

    higher_is_better: ClassVar[bool]
    """Which end of the scale a user wants."""
    columns: ClassVar[Sequence[str]]
    """The columns that it reads, checked before anything starts."""

    @abstractmethod
    def score(self, batch: "Batch") -> "np.ndarray":
        """Return float64 [n]."""


class FittedScorer(Scorer):
    """A scorer that learns from rows first."""

    @abstractmethod
    def fit(self, batch: "Batch", labels: "np.ndarray | None" = None) -> Self:
        """Forget, then learn from a batch."""
