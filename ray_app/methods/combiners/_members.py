"""What ensembles share: members gathered one after the other, judged by logits alone."""

from collections.abc import Sequence

from torch import Tensor

from ray_app.methods.combiners import Candidate, Combined, Evaluate, Rule, Step, joint


def gathered(candidates: Sequence[Candidate], evaluate: Evaluate, rule: Rule) -> Combined:
    """Return the ensemble of all candidates; the history says what each changed.

    Args:
        candidates: The members, in the order of the history.
        evaluate: Gives their logits.
        rule: How they answer.
    """
    logits, history, value = list[Tensor](), list[Step](), float("nan")
    for candidate, found in zip(candidates, evaluate.of(candidates), strict=True):
        logits.append(found)
        before, value = value, evaluate.score(joint(logits, rule))
        history.append(Step(candidate.name, value, kept=True, gain=value - before))
    names = [candidate.name for candidate in candidates]
    return Combined([candidate.load() for candidate in candidates], names, value, history, rule)
