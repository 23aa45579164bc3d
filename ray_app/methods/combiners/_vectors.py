"""What merges of task vectors share: a common vector, held once, is put on the start at several scales."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ray_app.methods.combiners import Candidate, Combined, Evaluate, Weights
from ray_app.methods.combiners._merge import Mix, best_on_grid, start_of, wide


def with_vector(
    combiner: str,
    candidates: Sequence[Candidate],
    evaluate: Evaluate,
    scales: Sequence[float],
    vector: Callable[[str, Weights], Tensor],
) -> Combined:
    """Return the best of theta_0 + scale * vector.

    Args:
        combiner: For messages.
        candidates: The ingredients, best first.
        evaluate: Judges, and knows the start.
        scales: To try.
        vector: A tensor's name and the start → the common vector there; asked for once.
    """
    first = candidates[0].load()
    start, mix = start_of(combiner, first, evaluate), Mix(first, evaluate)
    held = {name: vector(name, start) for name in mix.names}

    def at(scale: float) -> Weights:
        return mix.weights(lambda name: torch.add(wide(start[name]), held[name], alpha=scale))

    return best_on_grid(candidates, evaluate, [(f"scale {scale:g}", partial(at, scale)) for scale in scales])
