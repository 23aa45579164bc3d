"""WiSE-FT: the best candidate's weights drawn back towards the start, as far as validation rows like it.

    theta(a) = (1 - a) theta_0 + a theta_1,   a from a grid in 0..1; of equals the first

The start often knows more of shifted data than what was fine-tuned from it.

Reference: M. Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022,
https://arxiv.org/abs/2109.01903
Departure: the paper recommends a = 0.5 without any tuning; give `mix: [0.5]` for it.
Cost: an evaluation and two reads for each point of the grid; nothing but the evaluator's network in memory.
"""

from collections.abc import Sequence
from functools import partial

import torch

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate, Weights
from ray_app.methods.combiners._merge import Mix, best_on_grid, grid, start_of, wide


class WiSE(Combiner):
    """Use it when the data to come may differ from the training rows, and the start is a strong model.

    Args:
        mix: Shares of the candidate to try; 0 is the start, 1 the candidate.
    """

    def __init__(self, *, mix: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)) -> None:
        self.mix = grid("mix", "wise", mix)
        if not all(0 <= share <= 1 for share in self.mix):
            raise ValueError(f"wise: mix must be in 0..1, got {list(mix)!r}; 1 is the candidate itself")

    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Interpolate; see Combiner.make."""
        best = candidates[0]
        end = best.load()
        start, mix = start_of("wise", end, evaluate), Mix(end, evaluate)

        def at(share: float) -> Weights:
            return mix.weights(lambda name: torch.lerp(wide(start[name]), wide(end[name]), share))

        return best_on_grid([best], evaluate, [(f"mix {share:g}", partial(at, share)) for share in self.mix])
