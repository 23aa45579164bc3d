"""Scorers turn a raw batch into one number a row: quality, difficulty, membership."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import numpy as np

    from ray_app.methods import Batch


class Scorer(ABC):
    """A batch to numbers. One bad row must not harm the others: it gets NaN.

    What a class says of itself below, an instance may say of itself: options decide.
    """

    higher_is_better: bool
    """Which end of the scale a user wants."""
    columns: Sequence[str]
    """The columns that it reads, checked before anything starts."""
    heavy: bool = False
    """Whether it holds a neural model: it then runs where the device is, in few processes."""

    @abstractmethod
    def score(self, batch: "Batch") -> "np.ndarray":
        """Return float64 [n]."""

    def to(self, device: str) -> Self:
        """Compute on a device from now on; where there is no neural model, nothing changes."""
        return self


class FittedScorer(Scorer):
    """A scorer that learns from rows first. What it learned is arrays, so that it learns once for many.

    `score` and `state` raise NotFittedError before `fit` or `load_state`.
    """

    learns: bool = True
    """Whether it must: with some options there is nothing to learn; `fit` then changes nothing."""

    @abstractmethod
    def fit(self, batch: "Batch", labels: "np.ndarray | None" = None) -> Self:
        """Forget, then learn from a batch."""

    @abstractmethod
    def state(self) -> "dict[str, np.ndarray]":
        """Return what it learned, by name: numbers only; empty where there is nothing to learn."""

    @abstractmethod
    def load_state(self, state: "Mapping[str, np.ndarray]") -> Self:
        """Forget, then take over what another one with the same options learned.

        Raises:
            ValueError: Names or shapes that `state` never gives.
        """
