"""Uniform soup: the mean of all candidates' weights, one model to serve.

    theta = (1/k) sum_i theta_i

Reference: M. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time", ICML 2022, https://arxiv.org/abs/2203.05482
Departure: the history adds the candidates best first and says what each changed; the result is the mean of
all. Cost: k reads of the weights, and k evaluations for the history.
"""

from collections.abc import Sequence

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate, Step
from ray_app.methods.combiners._average import RunningAverage


class UniformSoup(Combiner):
    """Use it when all candidates are good and share a start; one bad candidate spoils it (see greedy_soup).

    Args:
        top: Use only the best so many; None: all.
    """

    def __init__(self, *, top: int | None = None) -> None:
        if top is not None and top < 1:
            raise ValueError(f"uniform_soup: top must be >= 1, got {top!r}; leave it out for all")
        self.top = top

    def combine(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Average; see Combiner.combine."""
        if not candidates:
            raise ValueError("uniform_soup: no candidates; did every trial fail?")
        order = sorted(candidates, key=lambda candidate: -candidate.value)[: self.top]
        soup, history, value = RunningAverage(), list[Step](), float("nan")
        for candidate in order:
            soup = soup.with_state(candidate.load())
            before, value = value, evaluate([evaluate.recalibrate(soup.state())])
            history.append(Step(candidate.name, value, kept=True, gain=value - before))
        members = [evaluate.recalibrate(soup.state())]
        return Combined(members, [candidate.name for candidate in order], value, history)
