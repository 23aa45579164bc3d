"""Weights averaged one at a time, so that a soup of any number holds two of them in memory."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ray_app.methods import StateDict


class RunningAverage:
    """The mean of the states added so far, summed in float64 (half-precision sums lose bits).

    Integer buffers (counters) are the first state's.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: dict[str, Tensor] = {}
        self._first: dict[str, Tensor] = {}

    def with_state(self, state: "StateDict") -> "RunningAverage":
        """Return the average with one more state; this one stays as it is.

        Raises:
            ValueError: Other names or shapes than the states before it.
        """
        new = RunningAverage()
        new.count = self.count + 1
        new._first = self._first or state
        _check_alike(new._first, state)
        for name, tensor in state.items():
            if tensor.is_floating_point():
                before = self._mean.get(name)
                value = tensor.double()
                new._mean[name] = value if before is None else before + (value - before) / new.count
        return new

    def state(self) -> "StateDict":
        """Return the average in the states' own types.

        Raises:
            ValueError: Nothing was added.
        """
        if not self.count:
            raise ValueError("average: no weights were added; give at least one candidate")
        return {
            name: self._mean[name].to(tensor.dtype) if name in self._mean else tensor.clone()
            for name, tensor in self._first.items()
        }


def average(states: "Iterable[StateDict]") -> "StateDict":
    """Return the mean of states, read one after the other."""
    mean = RunningAverage()
    for state in states:
        mean = mean.with_state(state)
    return mean.state()


def _check_alike(first: "StateDict", other: "StateDict") -> None:
    if missing := first.keys() ^ other.keys():
        raise ValueError(
            f"average: candidates differ in {sorted(missing)[:3]}; they must share an architecture"
        )
    for name, tensor in first.items():
        if tensor.shape != other[name].shape:
            shapes = f"{tuple(tensor.shape)} and {tuple(other[name].shape)}"
            raise ValueError(f"average: {name} has shapes {shapes}; candidates must share an architecture")
        if tensor.is_floating_point() and not torch.isfinite(other[name]).all():
            raise ValueError(f"average: {name} holds values that are not finite; leave that candidate out")
