"""What merges share: which tensors are mixed, a mean that grows, task vectors, and the best of a grid."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ray_app.methods.combiners import Candidate, Combined, Evaluate, Lazy, Step, Weights


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in a type that sums without losing bits: float32, or float64 where it is that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Mix:
    """Weights that are mixed where that has a sense; the rest is one candidate's.

    Integer buffers and normalisation statistics are copied: counters have no mean, and the evaluator finds
    statistics anew.

    Args:
        first: Whose names, types and other tensors the result has.
        evaluate: Names the statistics.
    """

    def __init__(self, first: Weights, evaluate: Evaluate) -> None:
        self._first = first
        # Asked once: each look at a tensor opens its file.
        types = {name: first[name].dtype for name in first if name not in evaluate.statistics}
        self._types = {name: dtype for name, dtype in types.items() if dtype.is_floating_point}
        self.names = list(self._types)

    def weights(self, mixed: Callable[[str], Tensor]) -> Weights:
        """Return the whole of the weights.

        Args:
            mixed: Name → its mixture, in any floating type.
        """

        def read(name: str) -> Tensor:
            dtype = self._types.get(name)
            return self._first[name] if dtype is None else mixed(name).to(dtype)

        return Lazy(self._first, read)


class Mean:
    """A mean of weights that grows by one at a time.

    What is held is the mean's difference from the first weights, in float32. Candidates are near each other,
    so it is small, and what rounding costs it is lost in the one rounding of the result.

    Args:
        first: The first weights.
        evaluate: Names the statistics, which have no mean.
    """

    def __init__(self, first: Weights, evaluate: Evaluate) -> None:
        self.count = 1
        self._first = first
        self._mix = Mix(first, evaluate)
        self._apart: dict[str, Tensor] = {}

    def weights(self) -> Weights:
        """Return the mean. It changes when the mean grows."""
        if self.count == 1:
            return self._first
        return self._mix.weights(lambda name: wide(self._first[name]) + self._apart[name])

    def with_one_more(self, other: Weights) -> Weights:
        """Return what the mean would be, computed as it is read."""

        def mixed(name: str) -> Tensor:
            first = wide(self._first[name])
            return self._grown(other, name, first).add_(first)

        return self._mix.weights(mixed)

    def add(self, other: Weights) -> None:
        """Grow by one."""
        for name in self._mix.names:
            grown = self._grown(other, name, wide(self._first[name]))
            # In place: memory that is given back and asked for again at each addition falls into pieces.
            self._apart[name] = self._apart[name].copy_(grown) if name in self._apart else grown
        self.count += 1

    def _grown(self, other: Weights, name: str, first: Tensor) -> Tensor:
        """How far the mean of one more is from the first."""
        share = 1 / (self.count + 1)
        apart = (wide(other[name]) - first).mul_(share)
        return apart.add_(self._apart[name], alpha=1 - share) if name in self._apart else apart


def difference(weights: Weights, start: Weights, name: str) -> Tensor:
    """Return a tensor's task vector: what training added to the start."""
    return wide(weights[name]) - wide(start[name])


def start_of(combiner: str, first: Weights, evaluate: Evaluate) -> Weights:
    """Return the start.

    Raises:
        ValueError: It is not known, or has another architecture.
    """
    start = evaluate.start
    if start is None:
        raise ValueError(
            f"{combiner}: needs the weights that candidates started from; the evaluator has none"
        )
    for name in first:
        if name not in start or start[name].shape != first[name].shape:
            raise ValueError(
                f"{combiner}: the start and the candidates differ in {name}; were they trained from it?"
            )
    return start


def soup(weights: Weights, evaluate: Evaluate) -> tuple[Weights, float]:
    """Return mixed weights with statistics of their own, and what they are worth."""
    fitting = evaluate.recalibrate(weights)
    return fitting, evaluate([fitting])


def best_on_grid(
    candidates: Sequence[Candidate],
    evaluate: Evaluate,
    points: Iterable[tuple[str, Callable[[], Weights]]],
) -> Combined:
    """Return the best of several mixtures of all candidates; of equals the first.

    Args:
        candidates: The ingredients.
        evaluate: Judges.
        points: What a mixture is called in the history, and how to get it.
    """
    tried = [(note, make, soup(make(), evaluate)[1]) for note, make in points]
    # A mixture far off may answer nan, which no comparison would leave behind.
    note, make, value = max(tried, key=lambda point: -math.inf if math.isnan(point[2]) else point[2])
    steps = [
        Step(candidates[0].name, found, kept=False, gain=found - candidates[0].value, note=said)
        for said, _, found in tried
    ]
    steps += [
        Step(one.name, value, kept=True, gain=value - candidates[0].value, note=note) for one in candidates
    ]
    return Combined([evaluate.recalibrate(make())], [one.name for one in candidates], value, steps)


def grid(name: str, combiner: str, values: Sequence[float]) -> tuple[float, ...]:
    """Return a grid's points.

    Raises:
        ValueError: It is empty, or holds what is no finite number.
    """
    points = tuple(float(value) for value in values)
    if not points or not all(map(math.isfinite, points)):
        raise ValueError(f"{combiner}: {name} must be finite numbers, at least one, got {list(values)!r}")
    return points


def checked_top(combiner: str, top: int | None) -> int | None:
    """Return how many candidates to use at most; None: all.

    Raises:
        ValueError: Less than one.
    """
    if top is not None and top < 1:
        raise ValueError(f"{combiner}: top must be >= 1, got {top!r}; leave it out for all")
    return top


def generator_for(seed: int, *names: str) -> torch.Generator:
    """Return the same chance for the same names, whatever was drawn before."""
    text = "\0".join((str(seed), *names)).encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big"))
