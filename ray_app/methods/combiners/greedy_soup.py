"""Greedy soup: candidates join the mean, best first, while the validation metric does not fall.

    S = {theta_1};  for i = 2..k: if metric(mean(S + theta_i)) >= metric(mean(S)): S = S + theta_i

theta_1 is the best single candidate, so on validation rows the soup is never worse than it.

Reference: M. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time", ICML 2022, Recipe 1, https://arxiv.org/abs/2203.05482
Cost: k evaluations and at most 2 k reads of the weights, tensor by tensor; one state in memory, in float32.
    Candidates that were not measured yet are, at once where the engine can; the rest is one after the other.
"""

from collections.abc import Sequence

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate, Step
from ray_app.methods.combiners._merge import Mean, soup


class GreedySoup(Combiner):
    """Use it by default: it takes what helps and leaves out candidates that lie in another basin.

    Args:
        strict: Add an ingredient only when the metric rises (the authors' script), not when it stays (the
            paper).
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict

    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Average greedily; see Combiner.make."""
        first, *rest = candidates
        mean, value = Mean(first.load(), evaluate), first.value
        history = [Step(first.name, value, kept=True, gain=float("nan"))]
        for candidate in rest:
            weights = candidate.load()
            _, tried = soup(mean.with_one_more(weights), evaluate)
            kept = tried > value if self.strict else tried >= value
            history.append(Step(candidate.name, tried, kept=kept, gain=tried - value))
            if kept:
                mean.add(weights)
                value = tried
        # One candidate's own statistics fit it: only averaged weights are recalibrated.
        made = evaluate.recalibrate(mean.weights()) if mean.count > 1 else first.load()
        return Combined([made], [step.ingredient for step in history if step.kept], value, history)
