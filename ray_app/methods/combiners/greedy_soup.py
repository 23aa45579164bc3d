"""Greedy soup: candidates join the mean, best first, while the validation metric does not fall.

    S = {theta_1};  for i = 2..k: if metric(mean(S + theta_i)) >= metric(mean(S)): S = S + theta_i

theta_1 is the best single candidate, so on validation rows the soup is never worse than it.

Reference: M. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time", ICML 2022, Recipe 1, https://arxiv.org/abs/2203.05482
Cost: k reads of the weights and k evaluations; two states in memory.
"""

from collections.abc import Sequence

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate, Step
from ray_app.methods.combiners._average import RunningAverage


class GreedySoup(Combiner):
    """Use it by default: it takes what helps and leaves out candidates that lie in another basin.

    Args:
        strict: Add an ingredient only when the metric rises (the authors' script), not when it stays (the
            paper).
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict

    def combine(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Average greedily; see Combiner.combine."""
        if not candidates:
            raise ValueError("greedy_soup: no candidates; did every trial fail?")
        first, *rest = sorted(candidates, key=lambda candidate: -candidate.value)
        soup = RunningAverage().with_state(first.load())
        # The candidate's own statistics fit it: only averaged weights are recalibrated.
        best = soup.state()
        value = evaluate([best])
        history = [Step(first.name, value, kept=True, gain=float("nan"))]
        for candidate in rest:
            larger = soup.with_state(candidate.load())
            state = evaluate.recalibrate(larger.state())
            tried = evaluate([state])
            kept = tried > value if self.strict else tried >= value
            history.append(Step(candidate.name, tried, kept=kept, gain=tried - value))
            if kept:
                soup, best, value = larger, state, tried
        return Combined([best], [step.ingredient for step in history if step.kept], value, history)
