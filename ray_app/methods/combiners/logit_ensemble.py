"""Logit ensemble: the candidates' logits averaged, N models to serve.

    z(x) = (1/N) sum_i z_i(x)

Reference: the comparison of M. Wortsman et al., "Model soups", ICML 2022, Section 2,
https://arxiv.org/abs/2203.05482
Cost: N forward passes for each answer; combining costs one evaluation of each, none where logits were kept.
"""

from collections.abc import Sequence

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate
from ray_app.methods.combiners._members import gathered
from ray_app.methods.combiners._merge import checked_top


class LogitEnsemble(Combiner):
    """Use it when accuracy is worth N times the compute of a soup.

    Args:
        top: Use only the best so many candidates; None: all.
    """

    def __init__(self, *, top: int | None = None) -> None:
        self.top = checked_top("logit_ensemble", top)

    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Gather members, best first; see Combiner.make."""
        return gathered(candidates[: self.top], evaluate, "logits")
