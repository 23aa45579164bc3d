"""The contract of combiners."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ray_app.methods.combiners import Candidate, Combiner
from ray_app.testing._expect import expect, expect_raises, untouched

if TYPE_CHECKING:
    from ray_app.methods import StateDict

_TARGET = 0.3


class _Distance:
    """How near the members' mean weights are to a target: a stand-in for a model's metric."""

    def __call__(self, members: Sequence["StateDict"]) -> float:
        return -float(
            torch.stack([(member["weight"] - _TARGET).square().mean() for member in members]).mean()
        )

    def recalibrate(self, state: "StateDict") -> "StateDict":
        return {name: tensor.clone() for name, tensor in state.items()}


def check_combiner(make: Callable[[], Combiner]) -> None:
    """Check everything that combiners promise.

    Args:
        make: Returns a fresh combiner.

    Raises:
        AssertionError: With a sentence about what does not hold.
    """
    states = [_state(seed) for seed in range(4)]
    evaluate = _Distance()
    candidates = [_candidate(f"trial-{i}", state, evaluate([state])) for i, state in enumerate(states)]
    with untouched(states):
        combined = make().combine(candidates, evaluate)
    expect(combined.members, "there must be at least one member")
    for member in combined.members:
        same = {k: (v.shape, v.dtype) for k, v in member.items()} == {
            k: (v.shape, v.dtype) for k, v in states[0].items()
        }
        expect(same, "members must have the candidates' names, shapes and types")
    known = {candidate.name for candidate in candidates}
    expect(
        combined.ingredients and set(combined.ingredients) <= known, "ingredients must be candidates' names"
    )
    expect(
        abs(combined.value - evaluate(combined.members)) < 1e-9,
        "the value must be that of the members it returns",
    )
    kept = [step.ingredient for step in combined.history if step.kept]
    expect(set(kept) == set(combined.ingredients), "the history must keep exactly the ingredients")
    again = make().combine(candidates, evaluate)
    expect(
        all(
            torch.equal(a[name], b[name])
            for a, b in zip(combined.members, again.members, strict=True)
            for name in a
        ),
        "the same candidates must give the same bytes",
    )
    alone = make().combine(candidates[:1], evaluate)
    expect(
        all(torch.allclose(alone.members[0][name].double(), states[0][name].double()) for name in states[0]),
        "of one candidate it must make that candidate",
    )
    expect_raises(ValueError, lambda: make().combine([], evaluate), "no candidates must raise ValueError")


def _state(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.rand(3, 4, generator=generator),
        "half": torch.rand(2, generator=generator).half(),
        "steps": torch.tensor(7),
    }


def _candidate(name: str, state: "StateDict", value: float) -> Candidate:
    return Candidate(name, value, lambda: {key: tensor.clone() for key, tensor in state.items()})
