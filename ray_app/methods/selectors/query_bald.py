"""BALD: the rows of whose class k passes with dropout are each sure, and disagree.

    key(x) = H( 1/k sum_m p_m(.|x) ) - 1/k sum_m H( p_m(.|x) )       in [0, log c], nats

This is the information that the label holds on the model's parameters.

Reference: N. Houlsby, F. Huszár, Z. Ghahramani, M. Lengyel, "Bayesian Active Learning for Classification and
    Preference Learning", 2011, https://arxiv.org/abs/1112.5745; Y. Gal, R. Islam, Z. Ghahramani, "Deep
    Bayesian Active Learning with Image Data", ICML 2017, https://arxiv.org/abs/1703.02910
Cost: O(k n c).
"""

import numpy as np

from ray_app.methods.selectors import View
from ray_app.methods.selectors._query import RowQuery, committee_of, entropy


class QueryBald(RowQuery):
    """Leaves out rows that are ambiguous in themselves, which entropy asks about in vain.

    Args:
        budget: Rows to label next, or the unit of `weight`.
        weight: What labelling a row costs: None, one; `chars`, the characters of its text; or a column.
    """

    name = "query_bald"
    kind = "prediction"
    needs = frozenset({"proba_mc"})

    def key(self, view: View) -> np.ndarray:
        """Return the mutual information in nats; 0 where rounding would make it negative."""
        passes = committee_of(view, self.name)
        return np.maximum(entropy(passes.mean(0)) - entropy(passes).mean(0), 0.0)
