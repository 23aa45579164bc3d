"""DARE: most of what each training added is dropped at random, the rest is scaled up, and the mean is taken.

    d_i = m_i * (theta_i - theta_0) / (1 - p),   m_i: 0 with probability p, else 1, for each number by itself
    theta = theta_0 + (scale / k) sum_i d_i,     scale from a grid; of equals the first

The expectation of d_i is the task vector itself; what is dropped no longer interferes with other candidates.

Reference: L. Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a
Free Lunch", ICML 2024, https://arxiv.org/abs/2311.03099
Departure: merged by task arithmetic; the paper combines it with other merges too.
Cost: k + 1 reads for the sum, an evaluation for each point; one state in memory, in float32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate, Weights
from ray_app.methods.combiners._merge import checked_top, difference, generator_for, grid
from ray_app.methods.combiners._vectors import with_vector


class DARE(Combiner):
    """Use it where task vectors are small and many, as in fine-tuned language models.

    Args:
        drop: The probability p that a number is dropped.
        scale: Scales to try, 1 being the mean.
        top: Use only the best so many candidates; None: all.
        seed: Of what is dropped; the same for the same candidates' names, in whatever order they come.
    """

    def __init__(
        self,
        *,
        drop: float = 0.5,
        scale: Sequence[float] = (0.5, 0.75, 1.0, 1.25),
        top: int | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 <= drop < 1:
            raise ValueError(f"dare: drop must be >= 0 and < 1, got {drop!r}; try 0.5")
        self.drop = drop
        self.scale = grid("scale", "dare", scale)
        self.top = checked_top("dare", top)
        self.seed = seed

    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Drop, scale and add; see Combiner.make."""
        used = candidates[: self.top]
        opened = [(candidate.name, candidate.load()) for candidate in used]

        def vector(name: str, start: Weights) -> Tensor:
            total = torch.zeros(())
            for candidate, weights in opened:
                added = difference(weights, start, name)
                total = total + self._thinned(added, candidate, name)
            return total / len(opened)

        return with_vector("dare", used, evaluate, self.scale, vector)

    def _thinned(self, added: Tensor, candidate: str, name: str) -> Tensor:
        chance = torch.rand(added.shape, generator=generator_for(self.seed, candidate, name))
        return torch.where(chance < self.drop, 0.0, added / (1 - self.drop))
