"""Fisher merging: a mean in which each number counts as much as its candidate's answers depend on it.

    theta = sum_i F_i theta_i / sum_i F_i,   number by number
    F_i = mean over rows of E_{y ~ p_i(y|x)} ( d log p_i(y|x) / d theta )^2 + floor

Reference: M. Matena, C. Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022,
https://arxiv.org/abs/2111.09832
Departure: the expectation over y is one label a row, drawn as the candidate itself would answer. All
    candidates have the same weight; the paper's per-model coefficients are not searched for.
Cost: a backward pass of one row at a time, `rows` of them for each candidate; k reads of the weights and of
    the Fisher information, which the evaluator keeps out of memory; one state in memory beside the network.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate, Step
from ray_app.methods.combiners._merge import Mix, checked_top, soup, wide


class Fisher(Combiner):
    """Use it when candidates learned from different data, so that each is sure of other weights.

    Args:
        rows: How many training rows the information is averaged over, at most.
        floor: Added to the information; where no candidate depends on a number, the plain mean is left.
        top: Use only the best so many candidates; None: all.
        seed: Of the labels.
    """

    def __init__(
        self, *, rows: int = 256, floor: float = 1e-6, top: int | None = None, seed: int = 0
    ) -> None:
        if rows < 1:
            raise ValueError(f"fisher: rows must be >= 1, got {rows!r}; try 256")
        if not floor > 0:
            raise ValueError(f"fisher: floor must be > 0, got {floor!r}; try 1e-6")
        self.rows, self.floor, self.seed = rows, floor, seed
        self.top = checked_top("fisher", top)

    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Weigh and average; see Combiner.make."""
        used = candidates[: self.top]
        if len(used) == 1:
            kept = Step(used[0].name, used[0].value, kept=True, gain=float("nan"))
            return Combined([used[0].load()], [used[0].name], used[0].value, [kept])
        opened = [(one.load(), evaluate.fisher(one, self.rows, self.seed)) for one in used]
        mix = Mix(opened[0][0], evaluate)

        def mean(name: str) -> Tensor:
            total = weight = torch.zeros((), dtype=torch.float64)
            for weights, information in opened:
                value = wide(weights[name]).double()
                # What does not train has no information, and the same floor in all.
                each = (
                    information[name].double() + self.floor if name in information else torch.ones_like(value)
                )
                total, weight = total + each * value, weight + each
            return (total / weight).to(wide(weights[name]).dtype)

        # Held: weights that are computed from 2 k tensors are read more than once.
        held = {name: mean(name) for name in mix.names}
        made, value = soup(mix.weights(held.__getitem__), evaluate)
        steps = [Step(one.name, value, kept=True, gain=value - used[0].value) for one in used]
        return Combined([made], [one.name for one in used], value, steps)
