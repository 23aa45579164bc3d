"""Merges the naive way, every state in memory as one flat float64 vector: what ours are compared with."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ray_app import registry
from ray_app.methods.combiners import Candidate, Evaluate, Weights, ranked


class Indifferent(Evaluate):
    """Finds all weights equally good: every mixture is kept, and no fallback hides it."""

    def __init__(self, start: Weights) -> None:
        self.start = start
        self.size = 4

    def logits(self, weights: Weights) -> Tensor:
        """Read everything, as a network would."""
        for tensor in weights.values():
            tensor.numel()
        return torch.zeros(1, 2)

    def score(self, logits: Tensor) -> float:
        """Return the same for all."""
        return 0.0

    def fisher(self, candidate: Candidate, rows: int, seed: int) -> Weights:
        """Return made-up information, of the candidate's own."""
        return {name: tensor.square() for name, tensor in candidate.load().items()}


def states(
    seed: int, k: int, shapes: Sequence[tuple[int, ...]]
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Return a start, and k states that moved from it: half together, half each for itself."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(scale: float) -> dict[str, Tensor]:
        return {f"t{i}": scale * torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}

    start, together = drawn(1.0), drawn(0.05)
    alone = [drawn(0.05) for _ in range(k)]
    return start, [{name: start[name] + together[name] + one[name] for name in start} for one in alone]


def ours(name: str, options: Mapping[str, object], start: Weights, made: Sequence[Weights]) -> Weights:
    """Return what a combiner makes of states."""
    candidates = [Candidate(str(i), 0.0, lambda state=state: state) for i, state in enumerate(made)]  # type: ignore[misc]
    evaluate = Indifferent(start)
    combined = registry.build("combiners", name, dict(options)).make(ranked(candidates, evaluate), evaluate)
    return {key: tensor.clone() for key, tensor in combined.members[0].items()}


def mean(start: Tensor, made: Tensor) -> Tensor:
    """Uniform and greedy soups of what all helps; the learned soup before its first step."""
    return made.mean(0)


def towards(start: Tensor, made: Tensor) -> Tensor:
    """WiSE-FT at 0.3."""
    return 0.7 * start + 0.3 * made[0]


def added(start: Tensor, made: Tensor) -> Tensor:
    """Task arithmetic at scale 0.7; DARE that drops nothing."""
    return start + 0.7 * (made - start).mean(0)


def ties(start: Tensor, made: Tensor) -> Tensor:
    """TIES at density 0.2; the threshold is a number of float32, as the weights are."""
    vectors = (made.float() - start.float()).double()
    least = vectors.abs().sort(1, descending=True).values[:, round(0.2 * vectors.shape[1]) - 1]
    trimmed = torch.where(vectors.abs() >= least[:, None], vectors, 0.0)
    agrees = (trimmed.sign() == trimmed.sum(0).sign()) & (trimmed != 0)
    return start + (trimmed * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def stock(start: Tensor, made: Tensor) -> Tensor:
    """Model Stock of one tensor."""
    vectors, k = made - start, len(made)
    pairs = itertools.combinations(vectors, 2)
    cosine = float(torch.stack([torch.cosine_similarity(a, b, dim=0) for a, b in pairs]).mean().clamp(min=0))
    share = k * cosine / (1 + (k - 1) * cosine)
    return share * made.mean(0) + (1 - share) * start


def fisher(start: Tensor, made: Tensor) -> Tensor:
    """Fisher merging with the made-up information."""
    information = made.square() + 1e-6
    return (information * made).sum(0) / information.sum(0)


REFERENCES: Mapping[str, tuple[Mapping[str, object], Callable[[Tensor, Tensor], Tensor]]] = {
    "uniform_soup": ({}, mean),
    "greedy_soup": ({}, mean),
    "wise": ({"mix": [0.3]}, towards),
    "task_arithmetic": ({"scale": [0.7]}, added),
    "dare": ({"drop": 0.0, "scale": [0.7]}, added),
    "ties": ({"density": 0.2, "scale": [1.0]}, ties),
    "model_stock": ({}, stock),
    "fisher": ({}, fisher),
}
"""Combiner → its options, and the same on a start [d] and states [k, d] in float64."""

MERGEKIT: Mapping[str, tuple[str, Mapping[str, object], Mapping[str, object]]] = {
    "uniform_soup": ("linear", {"weight": 1.0}, {}),
    "task_arithmetic": (
        "task_arithmetic",
        {"weight": 1.0, "normalize": True, "lambda": 0.7},
        {"scale": [0.7]},
    ),
    "model_stock": ("model_stock", {}, {}),
}
"""Combiner → mergekit's method and parameters, and ours. Its TIES trims each tensor by itself, ours all of
them together as the paper does: no comparison."""


def errors(seed: int, k: int) -> dict[str, float]:
    """Return each combiner's largest deviation from its naive reference, on one tensor."""
    start, made = states(seed, k, [(40_000,)])
    flat = torch.stack([state["t0"] for state in made]).double()
    return {
        name: float(
            (ours(name, options, start, made)["t0"].double() - by_hand(start["t0"].double(), flat))
            .abs()
            .max()
        )
        for name, (options, by_hand) in REFERENCES.items()
    }
