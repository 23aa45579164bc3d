"""Logit ensemble: the candidates' logits averaged, N models to serve.

    z(x) = (1/N) sum_i z_i(x)

Reference: the comparison of M. Wortsman et al., "Model soups", ICML 2022, Section 2,
https://arxiv.org/abs/2203.05482
Cost: N forward passes for each answer; combining costs N evaluations of 1..N members.
"""

from collections.abc import Sequence

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate, Step


class LogitEnsemble(Combiner):
    """Use it when accuracy is worth N times the compute of a soup.

    Args:
        top: Use only the best so many candidates; None: all.
    """

    def __init__(self, *, top: int | None = None) -> None:
        if top is not None and top < 1:
            raise ValueError(f"logit_ensemble: top must be >= 1, got {top!r}; leave it out for all")
        self.top = top

    def combine(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Gather members, best first; see Combiner.combine."""
        if not candidates:
            raise ValueError("logit_ensemble: no candidates; did every trial fail?")
        order = sorted(candidates, key=lambda candidate: -candidate.value)[: self.top]
        states, history, value = [], list[Step](), float("nan")
        for candidate in order:
            states.append(candidate.load())
            before, value = value, evaluate(states)
            history.append(Step(candidate.name, value, kept=True, gain=value - before))
        return Combined(states, [candidate.name for candidate in order], value, history)
