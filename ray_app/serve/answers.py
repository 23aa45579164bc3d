"""What passes between the ingress and the model: plain arrays, so that the ingress needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    Instance: TypeAlias = np.ndarray | bytes | str
    """A raw input: pixels, an encoded image, or text."""

Wish: TypeAlias = Literal["proba", "heads", "scores", "features"]
"""What a request asks for; nothing else is computed."""


@dataclass(frozen=True)
class Answer:
    """What a model says of n instances."""

    proba: "np.ndarray | None" = None
    """float32 [n, c]"""
    heads: "Mapping[str, np.ndarray]" = field(default_factory=dict)
    """Head → float32 [n, c]."""
    scores: "Mapping[str, np.ndarray]" = field(default_factory=dict)
    """Detector → float32 [n], higher is more abnormal."""
    features: "np.ndarray | None" = None
    """float32 [n, d]"""
    missing: Sequence[str] = ()
    """Members that did not answer in time: what remains is degraded."""


@dataclass(frozen=True)
class Refusal:
    """Why a request cannot be answered: a value, as an exception would cross the wire with a traceback."""

    status: int
    """As in HTTP: 4xx: the request is wrong; 503: nobody can answer now."""
    reason: str


def take(answer: Answer, rows: slice) -> Answer:
    """Return the answer for some of its instances."""
    return Answer(
        proba=None if answer.proba is None else answer.proba[rows],
        heads={name: values[rows] for name, values in answer.heads.items()},
        scores={name: values[rows] for name, values in answer.scores.items()},
        features=None if answer.features is None else answer.features[rows],
        missing=answer.missing,
    )


def concat(answers: Sequence[Answer]) -> Answer:
    """Join answers for parts of one request; what one of them lacks, the whole lacks."""
    if len(answers) == 1:
        return answers[0]
    return Answer(
        proba=_stacked([answer.proba for answer in answers]),
        heads=_columns([answer.heads for answer in answers]),
        scores=_columns([answer.scores for answer in answers]),
        features=_stacked([answer.features for answer in answers]),
        missing=sorted({name for answer in answers for name in answer.missing}),
    )


def _stacked(parts: "Sequence[np.ndarray | None]") -> "np.ndarray | None":
    import numpy as np

    there = [part for part in parts if part is not None]
    return np.concatenate(there) if len(there) == len(parts) else None


def _columns(parts: "Sequence[Mapping[str, np.ndarray]]") -> "dict[str, np.ndarray]":
    import numpy as np

    common = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in common}


class Backend(Protocol):
    """What answers, seen from the HTTP side."""

    async def answer(self, instances: "Sequence[Instance]", wishes: frozenset[Wish]) -> Answer | Refusal:
        """Answer for n instances."""
        ...

    async def probe(self) -> float:
        """Return the milliseconds that a real forward pass took; raises where it fails."""
        ...
