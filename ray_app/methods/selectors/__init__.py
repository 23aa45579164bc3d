"""Selectors choose rows, or whole sources, within a budget."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Selection:
    """What a selector chose."""

    indices: np.ndarray
    """int64 [m]: chosen rows, the most wanted first."""
    weights: np.ndarray | None = None
    """float64 [m]: `sample_weight` of each, where the method gives one."""
    labels: np.ndarray | None = None
    """int64 [m]: pseudo-labels, where the method gives them."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What a report may show: queries asked, thresholds used."""


class Selector(ABC):
    """Scores or features to a subset."""

    @abstractmethod
    def select(
        self, values: np.ndarray, budget: int, rng: np.random.Generator, costs: np.ndarray | None = None
    ) -> Selection:
        """Choose from n rows.

        Args:
            values: Scores [n] or features [n, d].
            budget: What may be spent: rows, or the unit of `costs`.
            rng: The only source of chance.
            costs: What each row costs (characters, tokens) [n]; None: one each.
        """
