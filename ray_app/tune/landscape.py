"""A run's weights as points: how far they lie apart, and the loss on a plane through three of them.

    <p, q> = sum over parameters of (p - start)(q - start);    |p - q|^2 = <p, p> + <q, q> - 2 <p, q>

A point (x, y) of the plane is start + a (first - start) + b (second - start), where x, y are lengths along
two directions that are perpendicular, the first of them towards `first`.

Reference: T. Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", NeurIPS 2018,
https://arxiv.org/abs/1802.10026 (the plane through three networks).
Cost: products: one pass over all weights, with 256 MiB of differences at most; a plane: one evaluation a
point.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ray_app.methods.combiners import Evaluate, Lazy, Weights

_ROOM = 1 << 28  # bytes of differences that are held at a time
_FLAT = 1e-3  # of a length: nearer to a line, a plane through it is not determined


def products(start: Weights, points: Sequence[Weights], leave_out: Collection[str] = ()) -> np.ndarray:
    """Return float64 [k, k]: the inner products of what each point adds to the start.

    Args:
        start: The origin.
        points: k of them, of the same names and shapes.
        leave_out: Names that are no parameters of their own: statistics, tied ones.
    """
    found = torch.zeros(len(points), len(points), dtype=torch.float64)
    step = max(1, _ROOM // (8 * (len(points) + 1)))
    for name in start:
        like = start[name]
        if name in leave_out or not like.is_floating_point():
            continue
        for begin in range(0, like.numel(), step):
            part = slice(begin, begin + step)
            origin = like.reshape(-1)[part].double()
            moved = torch.stack([point[name].reshape(-1)[part].double() - origin for point in points])
            found += moved @ moved.T
    return found.numpy()


def distances(inner: np.ndarray) -> np.ndarray:
    """Return float64 [k + 1, k + 1]: Euclidean distances between the start, the first, and the points."""
    padded = np.pad(inner, ((1, 0), (1, 0)))
    squares = np.diag(padded)
    return np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * padded, 0))


@dataclass(frozen=True)
class Plane:
    """A plane through the start and two points."""

    first: int
    second: int
    """Which points."""
    length: float
    """Of the first, from the start."""
    along: float
    across: float
    """Where the second is: in the first's direction, and perpendicular to it."""

    def place(self, inner: np.ndarray, point: int) -> tuple[float, float, float]:
        """Return a point's projection x, y and how far it lies from the plane."""
        x = float(inner[point, self.first]) / self.length
        y = (float(inner[point, self.second]) - self.along * x) / self.across
        return x, y, math.sqrt(max(float(inner[point, point]) - x * x - y * y, 0.0))

    def shares(self, x: float, y: float) -> tuple[float, float]:
        """Return how much of the first and of the second point is at x, y."""
        second = y / self.across
        return (x - second * self.along) / self.length, second


def plane_through(inner: np.ndarray, count: int) -> Plane | None:
    """Return the plane through the start and the first two of `count` points that lie on no line with it."""
    for first, second in combinations(range(count), 2):
        lengths = math.sqrt(inner[first, first]), math.sqrt(inner[second, second])
        if min(lengths) == 0:
            continue
        along = float(inner[first, second]) / lengths[0]
        across = math.sqrt(max(lengths[1] ** 2 - along**2, 0.0))
        if across > _FLAT * max(lengths):
            return Plane(first, second, lengths[0], along, across)
    return None


def on_plane(
    start: Weights, first: Weights, second: Weights, shares: tuple[float, float], fixed: Collection[str] = ()
) -> Weights:
    """Return start + a (first - start) + b (second - start), computed tensor by tensor.

    Args:
        start: The origin; what is no floating-point number is taken from it.
        first: The point that a share a is of.
        second: The point that a share b is of.
        shares: a, b.
        fixed: Names that are taken from the start too: statistics, which `recalibrate` finds anew.
    """

    def read(name: str) -> Tensor:
        origin = start[name]
        if name in fixed or not origin.is_floating_point():
            return origin
        moved = shares[0] * (first[name].float() - origin.float())
        return (origin + moved + shares[1] * (second[name].float() - origin.float())).to(origin.dtype)

    return Lazy(start, read)


def loss_at(evaluate: Evaluate, weights: Weights, labels: Tensor, *, as_they_are: bool = False) -> float:
    """Return the mean cross-entropy of weights, in nats.

    Args:
        evaluate: Gives the logits.
        weights: Of the network.
        labels: int64 [n], of the evaluator's rows.
        as_they_are: Keep their normalisation statistics; else these are estimated anew.
    """
    fitting = weights if as_they_are else evaluate.recalibrate(weights)
    # Of logits, not of probabilities: far from where networks are, the right class's is 0 in float32.
    return float(cross_entropy(evaluate.logits(fitting).double(), labels))


def grid(places: Sequence[tuple[float, float]], side: int = 11, margin: float = 0.3) -> np.ndarray:
    """Return float64 [side * side, 2]: places around those given, with a margin of the wider extent."""
    low, high = np.min(places, axis=0), np.max(places, axis=0)
    room = margin * float((high - low).max())
    xs, ys = (np.linspace(a - room, b + room, side) for a, b in zip(low, high, strict=True))
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
