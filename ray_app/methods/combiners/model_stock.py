"""Model Stock: the mean of a few candidates, drawn towards the start as far as they disagree.

    theta = t mean_i(theta_i) + (1 - t) theta_0,    t = k cos / (1 + (k - 1) cos)
    cos: mean over pairs of the cosine between theta_i - theta_0 and theta_j - theta_0

Fine-tuned weights lie on a sphere around a centre that is better than each; t is the point nearest to it on
the plane through the start and the candidates. Nothing is chosen on validation rows.

Reference: D.-H. Jang, S. Yun, D. Han, "Model Stock: All we need is just a few fine-tuned models", ECCV 2024,
https://arxiv.org/abs/2403.19522
Departure: a layer is a tensor. A cosine below 0, which the paper's geometry excludes, counts as 0. The mean
    over pairs is ( |sum_i u_i|^2 - k ) / (k (k - 1)) with unit vectors u_i: no pair is held side by side.
Cost: two reads of each candidate and one evaluation; one state in memory, in float32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate, Weights
from ray_app.methods.combiners._merge import checked_top, difference
from ray_app.methods.combiners._vectors import with_vector


class ModelStock(Combiner):
    """Use it when there are only two or three candidates and a good start.

    Args:
        top: Use only the best so many candidates; None: all.
    """

    def __init__(self, *, top: int | None = None) -> None:
        self.top = checked_top("model_stock", top)

    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Average and draw back; see Combiner.make."""
        used = candidates[: self.top]
        opened = [candidate.load() for candidate in used]

        def vector(name: str, start: Weights) -> Tensor:
            total = units = torch.zeros(())
            moved = 0
            for weights in opened:
                added = difference(weights, start, name)
                total = total + added
                length = torch.linalg.vector_norm(added.double()).to(added.dtype)
                if length > 0:
                    units, moved = units + added / length, moved + 1
            if moved < 2:
                # No pair: nothing says that they disagree.
                return total / len(opened)
            pairs = units.double().square().sum() - moved
            return total / len(opened) * _share(float(pairs) / (moved * (moved - 1)), len(opened))

        return with_vector("model_stock", used, evaluate, (1.0,), vector)


def _share(cosine: float, k: int) -> float:
    """The mean's share t."""
    cosine = min(1.0, max(0.0, cosine))
    return k * cosine / (1 + (k - 1) * cosine)
