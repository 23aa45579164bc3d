"""Combiners: candidates to one model's weights (soups), or to several members to serve (ensembles).

Weights are mappings that are read tensor by tensor (`Weights`), so a combiner holds what it sums up and
nothing else: with the evaluator's network, at most three models in memory, whatever the number of candidates.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ray_app.methods._ensemble import Rule, joint
from ray_app.methods._weights import Lazy, Weights


@dataclass(frozen=True)
class Candidate:
    """One trial's weights. They are read when they are needed and let go of after it."""

    name: str
    """The trial's name, as on the leaderboard."""
    value: float
    """Its metric on validation rows, higher is better; nan: not measured yet."""
    load: Callable[[], Weights]
    """Opens the weights."""
    labels: Sequence[str] | None = None
    """Class names in the order of its logits; None: the evaluator's."""
    classifier: Collection[str] = ()
    """Names of the tensors whose first axis is the classes: they are permuted where label orders differ."""
    snapshots: "Sequence[Candidate]" = ()
    """The same trial at the ends of its earlier cycles of the learning rate, oldest first."""
    key: Callable[[], str] | None = None
    """Identifies the weights by their content, for what an engine keeps of them; None: nothing is kept."""


@dataclass(frozen=True)
class Gradient:
    """Of the cross-entropy on some validation rows, at some weights."""

    loss: float
    """In nats."""
    weights: Weights
    """Name → derivative with respect to the parameter; other tensors have none."""
    log_temperature: float
    """Derivative with respect to the logarithm of what multiplies the logits."""


class Evaluate(ABC):
    """How a combiner asks what weights are worth: on validation rows, neither trained on nor tested on."""

    start: Weights | None = None
    """What all candidates were trained from, where it is known."""
    labels: Sequence[str] | None = None
    """Class names in the order of the logits; None: the first candidate's."""
    statistics: Collection[str] = frozenset()
    """Names of normalisation statistics: they are never mixed, `recalibrate` finds them anew."""
    tied: Mapping[str, str] = {}
    """Name → the name with which it shares its memory."""
    size: int = 0
    """How many validation rows there are, for `gradient`."""

    def __call__(self, members: Sequence[Weights], rule: Rule = "logits") -> float:
        """Return the metric of the members' common answer; higher is better."""
        return self.score(self.answer(members, rule))

    def answer(self, members: Sequence[Weights], rule: Rule = "logits") -> Tensor:
        """Return float32 [n, c]: the members' common logits."""
        return joint([self.logits(member) for member in members], rule)

    @abstractmethod
    def logits(self, weights: Weights) -> Tensor:
        """Return float32 [n, c] on validation rows."""

    @abstractmethod
    def score(self, logits: Tensor) -> float:
        """Return the metric of logits [n, c]; higher is better."""

    def of(self, candidates: Sequence[Candidate]) -> Iterator[Tensor]:
        """Yield each candidate's logits, in order; an engine may keep some, and compute others at once."""
        for candidate in candidates:
            yield self.logits(candidate.load())

    def recalibrate(self, weights: Weights) -> Weights:
        """Return weights whose normalisation statistics fit them (averaged ones fit nobody)."""
        return weights

    def gradient(self, weights: Weights, rows: Tensor, log_temperature: float) -> Gradient:
        """Return the gradient of the loss on validation rows; normalisation takes the rows' own statistics.

        Args:
            weights: Where.
            rows: int64, which of the validation rows.
            log_temperature: Logits are multiplied by its exponential.
        """
        raise NotImplementedError(f"{type(self).__name__} has no gradient; this combiner needs one")

    def fisher(self, candidate: Candidate, rows: int, seed: int) -> Weights:
        """Return the diagonal of the Fisher information, on training rows, of the names that train.

        Args:
            candidate: Of its weights.
            rows: How many training rows to average over, at most.
            seed: Of the labels, drawn as the candidate itself would answer.
        """
        raise NotImplementedError(f"{type(self).__name__} has no Fisher information; this combiner needs it")


@dataclass(frozen=True)
class Step:
    """What one ingredient did."""

    ingredient: str
    value: float
    """The metric with it."""
    kept: bool
    gain: float
    """The metric with it minus the metric before it; nan for the first."""
    note: str = ""
    """What else there is to say of it."""


@dataclass(frozen=True)
class Combined:
    """What a combiner made: one model for a soup, several for an ensemble."""

    members: Sequence[Weights]
    ingredients: Sequence[str]
    value: float
    """The metric on validation rows."""
    history: Sequence[Step] = field(default_factory=list)
    rule: Rule = "logits"
    """How several members answer."""
    gave_way: bool = False
    """Whether it is the best candidate, than which what was made is worse."""


class Combiner(ABC):
    """Candidates to a model that is not worse on validation rows than the best of them."""

    @property
    def name(self) -> str:
        """As in YAML: the name of its file."""
        return type(self).__module__.rpartition(".")[2]

    def combine(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Combine candidates that share an architecture and a start.

        What would be worse than the best candidate gives way to it, and the history says so.

        Raises:
            ValueError: No candidates, other names or shapes than the first's, classes that are not the same,
                values that are not finite, or something that this combiner needs and does not get.
        """
        if not candidates:
            raise ValueError(f"{self.name}: no candidates; did every trial fail?")
        first = candidates[0]
        # Shapes are asked once: each look at a tensor opens its file.
        like = _Like(first.name, first.labels, {name: one.shape for name, one in first.load().items()})
        aligned = [_aligned(self.name, one, like, evaluate) for one in candidates]
        best, *rest = ranked(aligned, evaluate)
        (logits,) = evaluate.of([best])
        best = replace(best, value=evaluate.score(logits))
        made = self.make([best, *rest], evaluate)
        if not made.value >= best.value:
            made = _fallen_back(self.name, best, made)
        return replace(made, members=[_whole(member, evaluate.tied) for member in made.members])

    @abstractmethod
    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Combine, whatever it may be worth.

        Args:
            candidates: Best first, at least one, alike in names, shapes and order of classes.
            evaluate: What weights are worth.
        """


def ranked(candidates: Sequence[Candidate], evaluate: Evaluate) -> list[Candidate]:
    """Return candidates best first, those without a value measured; equal ones stay in the order given."""
    unknown = [candidate for candidate in candidates if math.isnan(candidate.value)]
    values = map(evaluate.score, evaluate.of(unknown))
    measured = [replace(one, value=next(values)) if math.isnan(one.value) else one for one in candidates]
    return sorted(measured, key=lambda candidate: -candidate.value)


def _fallen_back(name: str, best: Candidate, made: Combined) -> Combined:
    note = f"{name} would give {made.value:.6g}, less than {best.name} by itself ({best.value:.6g})"
    steps = [replace(step, kept=False) for step in made.history]
    steps.append(Step(best.name, best.value, kept=True, gain=best.value - made.value, note=note))
    return Combined([best.load()], [best.name], best.value, steps, gave_way=True)


def _whole(weights: Weights, tied: Mapping[str, str]) -> Weights:
    """Weights with the names again that share others' memory."""
    if not tied:
        return weights
    names = [*weights, *(name for name, other in tied.items() if other in weights and name not in weights)]
    return Lazy(names, lambda name: weights[name if name in weights else tied[name]])


@dataclass(frozen=True)
class _Like:
    """What all candidates must be like."""

    name: str
    labels: Sequence[str] | None
    shapes: Mapping[str, torch.Size]


def _aligned(combiner: str, candidate: Candidate, like: _Like, evaluate: Evaluate) -> Candidate:
    """The candidate with its classes in the common order; refused where it is unlike the others."""
    order = _order(combiner, candidate, evaluate.labels or like.labels)
    sound = set[str]()
    # Not the evaluator itself: where candidates travel to other processes, it stays here.
    tied = frozenset(evaluate.tied)

    def load() -> Weights:
        weights = candidate.load()
        if differing := weights.keys() ^ like.shapes.keys():
            raise ValueError(
                f"{combiner}: {candidate.name} and {like.name} differ in {sorted(differing)[:3]}; "
                "candidates must share an architecture"
            )

        def read(name: str) -> Tensor:
            tensor = weights[name]
            if name not in sound:
                _check(combiner, candidate.name, name, tensor, like.shapes[name])
                sound.add(name)
            return tensor[order] if order is not None and name in candidate.classifier else tensor

        return Lazy((name for name in weights if name not in tied), read)

    return replace(
        candidate,
        load=load,
        key=candidate.key if order is None else None,
        snapshots=[_aligned(combiner, one, like, evaluate) for one in candidate.snapshots],
    )


def _check(combiner: str, candidate: str, name: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape:
        raise ValueError(
            f"{combiner}: {name} has shapes {tuple(shape)} and {tuple(tensor.shape)} ({candidate}); "
            "candidates must share an architecture"
        )
    # The extremes show any nan or infinity in one pass that allocates nothing.
    if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
        raise ValueError(
            f"{combiner}: {name} of {candidate} holds values that are not finite; leave that candidate out"
        )


def _order(combiner: str, candidate: Candidate, labels: Sequence[str] | None) -> Tensor | None:
    """Where each common class is among the candidate's; None: in its place."""
    if labels is None or candidate.labels is None or list(candidate.labels) == list(labels):
        return None
    if sorted(candidate.labels) != sorted(labels):
        odd = sorted(set(candidate.labels) ^ set(labels))[:3]
        raise ValueError(
            f"{combiner}: {candidate.name} knows other classes than the rest (differing: {', '.join(odd)}); "
            "leave it out, or train it on the same classes"
        )
    if not candidate.classifier:
        raise ValueError(
            f"{combiner}: {candidate.name} has its classes in another order, and does not say which tensors "
            "are its classifier; give `classifier`, or train with one order"
        )
    place = {label: index for index, label in enumerate(candidate.labels)}
    return torch.tensor([place[label] for label in labels])


__all__ = [
    "Candidate",
    "Combined",
    "Combiner",
    "Evaluate",
    "Gradient",
    "Lazy",
    "Rule",
    "Step",
    "Weights",
    "joint",
    "ranked",
]
