"""Snapshot ensemble: one trial's weights after several cycles of its learning rate, M models to serve.

    p(x) = (1/m) sum_{i=M-m+1..M} softmax(z_i(x)),   z_i: after cycle i of M, the last m of them

Each cycle lets the learning rate fall to nearly zero, so that the weights settle in a minimum, and then
starts anew from the top: M members for the price of one training.

Reference: G. Huang et al., "Snapshot Ensembles: Train 1, get M for free", ICLR 2017,
https://arxiv.org/abs/1704.00109
Cost: m forward passes for each answer; combining costs one evaluation of each.
"""

from collections.abc import Sequence

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate
from ray_app.methods.combiners._members import gathered


class Snapshot(Combiner):
    """Use it with a cyclic learning rate; a trial without earlier cycles is an ensemble of one.

    Args:
        last: How many of the best trial's last cycles answer, its end included; None: all.
    """

    def __init__(self, *, last: int | None = None) -> None:
        if last is not None and last < 1:
            raise ValueError(f"snapshot: last must be >= 1, got {last!r}; leave it out for all")
        self.last = last

    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Gather the best trial's cycles, the latest first; see Combiner.make."""
        best = candidates[0]
        return gathered([best, *reversed(best.snapshots)][: self.last], evaluate, "probabilities")
