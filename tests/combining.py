"""Candidates of a small linear model, and task vectors the naive way: every state held, flat."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ray_app import registry
from ray_app.methods.combiners import Candidate, Combined, Weights, ranked
from ray_app.testing.combiners import LinearRows

State = dict[str, Tensor]
MIXED = ("body", "weight", "bias")


class Plain(LinearRows):
    """Without tied tensors, so that a method's own arithmetic is seen."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.tied = {}

    def state(self, seed: int, near: Weights | None = None) -> State:
        return {name: tensor for name, tensor in super().state(seed, near).items() if name != "copy"}


def candidates(evaluate: Plain, k: int) -> tuple[list[Candidate], list[State]]:
    """Candidates and their states, best first."""
    states = [evaluate.state(seed, near=evaluate.start) for seed in range(k)]
    states.sort(key=lambda state: -evaluate([state]))
    made = [Candidate(f"{i}", evaluate([state]), lambda state=state: state) for i, state in enumerate(states)]
    return made, states


def made_by(name: str, options: dict[str, object], made: Sequence[Candidate], evaluate: Plain) -> Combined:
    """What a combiner makes, whatever it is worth."""
    return registry.build("combiners", name, options).make(ranked(made, evaluate), evaluate)


def vector(state: Weights) -> Tensor:
    """float64 [d]"""
    return torch.cat([state[name].flatten().double() for name in MIXED])


def vectors(states: Sequence[State], start: Weights) -> Tensor:
    """Task vectors, float64 [k, d]; half precision has its own rounding."""
    return torch.stack([vector(state) for state in states]) - vector(start)


def assert_mixture(member: Weights, expected: Tensor) -> None:
    """The member's mixed tensors are the expected vector: to 1e-6, and to one rounding of what is float16."""
    place = 0
    for name in MIXED:
        tensor = member[name]
        wanted = expected[place : place + tensor.numel()].view(tensor.shape)
        place += tensor.numel()
        half = tensor.dtype == torch.float16
        torch.testing.assert_close(
            tensor.double(),
            wanted,
            atol=1e-6,
            rtol=2**-10 if half else 1e-6,
            msg=lambda m, n=name: f"{n}: {m}",
        )
