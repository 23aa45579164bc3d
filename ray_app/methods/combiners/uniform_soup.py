"""Uniform soup: the mean of all candidates' weights, one model to serve.

    theta = (1/k) sum_i theta_i

Reference: M. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time", ICML 2022, https://arxiv.org/abs/2203.05482
Departure: the history adds the candidates best first and says what each changed; the result is the mean of
all. Cost: k evaluations for the history and 2 k reads, tensor by tensor; one state in memory, in float32.
"""

from collections.abc import Sequence

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate, Step
from ray_app.methods.combiners._merge import Mean, checked_top, soup


class UniformSoup(Combiner):
    """Use it when all candidates are good and share a start; one bad candidate spoils it (see greedy_soup).

    Args:
        top: Use only the best so many; None: all.
    """

    def __init__(self, *, top: int | None = None) -> None:
        self.top = checked_top("uniform_soup", top)

    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Average; see Combiner.make."""
        first, *rest = candidates[: self.top]
        mean, value, made = Mean(first.load(), evaluate), first.value, first.load()
        history = [Step(first.name, value, kept=True, gain=float("nan"))]
        for candidate in rest:
            mean.add(candidate.load())
            before = value
            made, value = soup(mean.weights(), evaluate)
            history.append(Step(candidate.name, value, kept=True, gain=value - before))
        return Combined([made], [step.ingredient for step in history], value, history)
