"""Several members' logits as one answer: averaged, or voted on.

    logits         z = (1/N) sum_i z_i
    probabilities  z = log( (1/N) sum_i softmax(z_i) )
    votes          z = log( (v + (1/N) sum_i softmax(z_i)) / (N + 1) ),  v_c: members whose largest logit is c

Departure: counted votes alone tie, and give a class without votes the probability 0; so the members' mean
probability counts as one more vote, divided.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Rule: TypeAlias = Literal["logits", "probabilities", "votes"]
RULES: tuple[Rule, ...] = ("logits", "probabilities", "votes")


def joint(logits: Sequence[Tensor], rule: Rule = "logits") -> Tensor:
    """Return float [n, c]: logits of the members' common answer.

    Args:
        logits: [n, c] of each member.
        rule: How they are joined.

    Raises:
        ValueError: No members, or an unknown rule.
    """
    if not logits:
        raise ValueError("ensemble: no members; give at least one")
    if rule not in RULES:
        raise ValueError(f"ensemble: rule must be one of {', '.join(RULES)}, got {rule!r}")
    stacked = torch.stack(list(logits))
    if rule == "logits":
        return stacked.mean(0)
    log_proba = torch.log_softmax(stacked, 2).logsumexp(0) - torch.log(stacked.new_tensor(len(stacked)))
    if rule == "probabilities":
        return log_proba
    votes = torch.nn.functional.one_hot(stacked.argmax(2), stacked.shape[2]).sum(0)
    return torch.log((votes + log_proba.exp()) / (len(stacked) + 1))
