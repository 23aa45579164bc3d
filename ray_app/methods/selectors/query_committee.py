"""Query by committee: the rows on which k models disagree.

    kl:   key(x) = 1/k sum_m KL( p_m(.|x) || p(.|x) ),  p = 1/k sum_m p_m      in [0, log k], nats
    vote: key(x) = -sum_y v_y log v_y,  v_y = share of members whose most probable class is y

Reference: H. S. Seung, M. Opper, H. Sompolinsky, "Query by Committee", COLT 1992; A. McCallum, K. Nigam,
    "Employing EM and Pool-Based Active Learning for Text Classification", ICML 1998.
Cost: O(k n c).
"""

from typing import Literal

import numpy as np

from ray_app.methods.selectors import View
from ray_app.methods.selectors._query import RowQuery, committee_of, entropy

_LEAST_PROBABILITY = 1e-12


class QueryCommittee(RowQuery):
    """Where single models are too sure of themselves; poor while its members have few labels each.

    A member that has never seen a class gives it probability 0 before the mean is taken.

    Args:
        measure: `kl`, divergence from the mean; or `vote`, entropy of votes.
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
    """

    name = "query_committee"
    kind = "ensemble"
    needs = frozenset({"proba_mc"})

    def __init__(
        self, *, measure: Literal["kl", "vote"] = "kl", budget: float = 100, weight: str | None = None
    ) -> None:
        super().__init__(budget=budget, weight=weight)
        if measure not in ("kl", "vote"):
            raise ValueError(f"query_committee: measure must be kl or vote, got {measure!r}")
        self.measure = measure

    def key(self, view: View) -> np.ndarray:
        """Return the disagreement in nats."""
        members = committee_of(view, self.name)
        if self.measure == "vote":
            votes = members.argmax(2)[..., None] == np.arange(members.shape[2])
            return entropy(votes.mean(0))
        # A class that a member gives 0 adds 0, so no logarithm of 0 counts.
        floor = np.maximum(members, _LEAST_PROBABILITY)
        mean = np.maximum(members.mean(0), _LEAST_PROBABILITY)
        return (members * (np.log(floor) - np.log(mean))).sum(2).mean(0)
