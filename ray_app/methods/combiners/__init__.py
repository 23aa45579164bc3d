"""Combiners: candidates to one model's weights (soups), or to several members to serve (ensembles)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ray_app.methods import StateDict


@dataclass(frozen=True)
class Candidate:
    """One trial's weights. They are read when they are needed and let go of after it."""

    name: str
    """The trial's name, as on the leaderboard."""
    value: float
    """Its metric on validation rows."""
    load: Callable[[], "StateDict"]
    """Reads the weights."""


class Evaluate(Protocol):
    """How a combiner asks what weights are worth: on validation rows, neither trained on nor tested on."""

    def __call__(self, members: Sequence["StateDict"]) -> float:
        """Return the metric of the members' averaged logits; higher is better."""
        ...

    def recalibrate(self, state: "StateDict") -> "StateDict":
        """Return weights whose normalisation statistics fit them (averaged ones fit nobody)."""
        ...


@dataclass(frozen=True)
class Step:
    """What one ingredient did."""

    ingredient: str
    value: float
    """The metric with it."""
    kept: bool
    gain: float
    """The metric with it minus the metric before it; nan for the first."""


@dataclass(frozen=True)
class Combined:
    """What a combiner made: one state for a soup, several for an ensemble."""

    members: Sequence["StateDict"]
    ingredients: Sequence[str]
    value: float
    """The metric on validation rows."""
    history: Sequence[Step] = field(default_factory=list)


class Combiner(ABC):
    """Candidates to a model."""

    @abstractmethod
    def combine(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Combine candidates that share an architecture and a start.

        Raises:
            ValueError: No candidates, or weights of different shapes.
        """
