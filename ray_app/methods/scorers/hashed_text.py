"""Hashed text: the probability that a text belongs to the wanted kind, from its words and word pairs.

    score = 1 / (1 + exp(-(w . z + b)))         in [0, 1],    z = counts / ||counts||_2

counts: of words (runs of letters and digits, or one other sign; in lower case) and of runs of up to `ngrams`
of them, each hashed to one of `buckets`. w, b: logistic regression with both kinds weighing the same.

Reference: A. Joulin, E. Grave, P. Bojanowski, T. Mikolov, "Bag of Tricks for Efficient Text Classification",
    EACL 2017, https://arxiv.org/abs/1607.01759
Departure: fastText learns vectors of words and averages them, by stochastic gradients; here the weights are
    those of one convex problem, solved to its end, so the same rows give the same weights.
Cost: O(words) a text, about 10^6 characters a second and core; state 8 bytes a bucket.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ray_app.errors import NotFittedError
from ray_app.methods.scorers import FittedScorer
from ray_app.methods.scorers._text import score_texts, texts_to_learn, wanted_or_not

if TYPE_CHECKING:
    from ray_app.methods import Batch

_TOKENS = r"(?u)\w+|[^\w\s]"
_MOST_BUCKETS = 2**24


class HashedText(FittedScorer):
    """The usual quality filter of web corpora: fitted on wanted (label 1) and unwanted (label 0) texts.

    Args:
        ngrams: Words in the longest run that counts as one feature.
        buckets: Features; rarer ones share a bucket.
        C: Inverse strength of the penalty.
        column: Holds the text.
    """

    higher_is_better = True

    def __init__(
        self, *, ngrams: int = 2, buckets: int = 2**18, C: float = 10.0, column: str = "text"
    ) -> None:
        if not 1 <= ngrams <= 5:
            raise ValueError(f"hashed_text: ngrams must be 1..5, got {ngrams!r}; try 2")
        if not 2 <= buckets <= _MOST_BUCKETS:
            raise ValueError(f"hashed_text: buckets must be 2..{_MOST_BUCKETS}, got {buckets!r}; try 262144")
        if not C > 0:
            raise ValueError(f"hashed_text: C must be > 0, got {C!r}; leave it out for 10")
        self.ngrams = ngrams
        self.buckets = buckets
        self.C = C
        self.columns = (column,)
        self._weights: np.ndarray | None = None
        self._bias = 0.0

    def fit(self, batch: "Batch", labels: np.ndarray | None = None) -> Self:
        """Forget, then learn from texts of both kinds.

        Raises:
            ValueError: No rows, one that is no string, or labels that are not 0 and 1, both there.
        """
        from sklearn.linear_model import LogisticRegression

        texts = texts_to_learn(batch, self.columns[0], "hashed_text")
        truth = wanted_or_not(labels, len(texts), "hashed_text")
        model = LogisticRegression(C=self.C, class_weight="balanced", max_iter=1000)
        model.fit(self._hashed.transform(texts), truth)
        self._weights, self._bias = model.coef_[0].astype(np.float64), float(model.intercept_[0])
        return self

    def state(self) -> dict[str, np.ndarray]:
        """Return `weights` float64 [buckets] and `bias` float64 [1]."""
        return {"weights": self._fitted, "bias": np.array([self._bias])}

    def load_state(self, state: Mapping[str, np.ndarray]) -> Self:
        """Take over weights; see FittedScorer."""
        if set(state) != {"weights", "bias"} or state["weights"].shape != (self.buckets,):
            found = {name: list(value.shape) for name, value in state.items()}
            raise ValueError(
                f"hashed_text: the state has {found}, expected {self.buckets} weights and a bias"
            )
        self._weights, self._bias = np.asarray(state["weights"], np.float64), float(state["bias"][0])
        return self

    def score(self, batch: "Batch") -> np.ndarray:
        """Return float64 [n] in 0..1; NaN for a row that is no string.

        Raises:
            NotFittedError: Nothing was learned yet.
        """
        weights, bias = self._fitted, self._bias

        def probability(texts: list[str]) -> np.ndarray:
            from scipy.special import expit

            proba: np.ndarray = expit(self._hashed.transform(texts) @ weights + bias)
            return proba

        return score_texts(batch, self.columns[0], probability)

    @property
    def _fitted(self) -> np.ndarray:
        if self._weights is None:
            raise NotFittedError(
                "hashed_text: nothing learned yet; call fit(), or give the step `fit: <split>`"
            )
        return self._weights

    @cached_property
    def _hashed(self) -> Any:
        from sklearn.feature_extraction.text import HashingVectorizer

        return HashingVectorizer(
            n_features=self.buckets,
            ngram_range=(1, self.ngrams),
            token_pattern=_TOKENS,
            alternate_sign=False,
            norm="l2",
        )
