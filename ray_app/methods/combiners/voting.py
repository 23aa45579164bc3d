"""Voting: each candidate has one vote for its most probable class, N models to serve.

    y(x) = argmax_c #{ i : argmax z_i(x) = c },   ties decided by the candidates' mean probability

Reference: L. K. Hansen, P. Salamon, "Neural Network Ensembles", IEEE Transactions on Pattern Analysis and
Machine Intelligence 12(10), 1990 (plurality of the networks' decisions), https://doi.org/10.1109/34.58871
Departure: the mean probability breaks ties and counts as one more vote where probabilities are asked for, as
    no class then has probability 0 (see ray_app/methods/_ensemble.py).
Cost: N forward passes for each answer; combining costs one evaluation of each, none where logits were kept.
"""

from collections.abc import Sequence

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate
from ray_app.methods.combiners._members import gathered
from ray_app.methods.combiners._merge import checked_top


class Voting(Combiner):
    """Use it when members' logits are not on one scale; otherwise logit_ensemble keeps more of what they say.

    Args:
        top: Let only the best so many candidates vote; None: all.
    """

    def __init__(self, *, top: int | None = None) -> None:
        self.top = checked_top("voting", top)

    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Gather members, best first; see Combiner.make."""
        return gathered(candidates[: self.top], evaluate, "votes")
