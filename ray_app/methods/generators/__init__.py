"""Generators make endless synthetic data, addressed by (seed, index)."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ray_app.methods import Batch


class Generator(ABC):
    """An endless dataset of which any machine can make any part.

    Row i of seed s is the same bytes whoever makes it, so an endless source can be divided among workers and
    a killed one made again. Some return ground truth beside the data.
    """

    @abstractmethod
    def row(self, rng: np.random.Generator) -> dict[str, np.ndarray | int | float | str]:
        """Return one row, drawn from `rng` alone."""

    def sample(self, n: int, rng: np.random.Generator) -> "Batch":
        """Return a batch of n rows; the same generator state gives the same bytes."""
        return self.at(range(n), int(rng.integers(2**63)))

    def at(self, indices: range, seed: int) -> "Batch":
        """Return the rows with these indices of the endless dataset of a seed."""
        rows = [self.row(np.random.default_rng((seed, index))) for index in indices]
        return {key: np.stack([np.asarray(row[key]) for row in rows]) for key in rows[0]} if rows else {}
