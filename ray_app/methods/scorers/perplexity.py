"""Perplexity: how surprising a text is to a language model, as its logarithm.

    score = -(1/N) sum_i ln p(u_i | u_1 .. u_{i-1})       in nats, in [0, inf); perplexity is its exponential

N: characters or tokens of the text, never the bare sum, which would measure length. The built-in model counts
characters (see _ngram); others are causal language models of the transformers library, which read a long
text in overlapping windows.

Reference: Y. Liu et al., "POINTS: Improving Your Vision-language Model with Affordable Strategies", 2024,
    https://arxiv.org/abs/2409.04828 (the lowest fifth is kept); G. Wenzek et al., "CCNet: Extracting High
    Quality Monolingual Datasets from Web Crawl Data", LREC 2020, https://arxiv.org/abs/1911.00359
Departure: POINTS conditions on the image of a pair; here there is only the text.
Cost: the n-gram model 10^5 to 10^6 characters a second and core; others one forward pass, (window / stride)
    times that for long texts.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Self, cast

import numpy as np

from ray_app.errors import NotFittedError
from ray_app.methods.scorers import FittedScorer
from ray_app.methods.scorers._ngram import CharacterModel
from ray_app.methods.scorers._text import score_texts, texts_to_learn

if TYPE_CHECKING:
    from ray_app.methods import Batch
    from ray_app.methods._causal import CausalModel, Dtype

_NGRAM = "ngram"
_MOST_ORDER = 16


class Perplexity(FittedScorer):
    """Keep the low end: the high one is noise. The lowest of all is boilerplate, so drop duplicates first.

    Do not compare scores of different models, nor fit one on the rows that it is to judge.

    Args:
        model: `ngram`, which learns from rows, or a causal language model's folder or name on the hub.
        order: Characters in the longest gram; of `ngram` only.
        per: Unit that the mean is over; None: characters of `ngram`, else tokens.
        max_tokens: Most tokens that the model sees at once; None: what it can take, up to 1024.
        stride: Tokens between the beginnings of windows; None: half a window.
        batch_tokens: Most tokens in a forward pass.
        dtype: Of the weights.
        revision: Which version on the hub.
        column: Holds the text.
    """

    higher_is_better = False

    def __init__(
        self,
        *,
        model: str = _NGRAM,
        order: int = 4,
        per: Literal["char", "token"] | None = None,
        max_tokens: int | None = None,
        stride: int | None = None,
        batch_tokens: int = 4096,
        dtype: "Dtype" = "float32",
        revision: str | None = None,
        column: str = "text",
    ) -> None:
        self.learns = model == _NGRAM
        self.heavy = not self.learns
        if per not in (None, "char", "token") or (self.learns and per == "token"):
            raise ValueError(f"perplexity: per must be char (or token, but not of ngram), got {per!r}")
        if not 1 <= order <= _MOST_ORDER:
            raise ValueError(f"perplexity: order must be 1..{_MOST_ORDER}, got {order!r}; try 4")
        if max_tokens is not None and max_tokens < 2:
            raise ValueError(f"perplexity: max_tokens must be >= 2, got {max_tokens!r}; leave it out")
        if stride is not None and not 1 <= stride < (max_tokens or stride + 1):
            raise ValueError(
                f"perplexity: stride must be 1..max_tokens - 1, got {stride!r} of {max_tokens!r}"
            )
        if batch_tokens < 1:
            raise ValueError(f"perplexity: batch_tokens must be >= 1, got {batch_tokens!r}; try 4096")
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"perplexity: dtype must be float32, bfloat16 or float16, got {dtype!r}")
        self.model = model
        self.order = order
        self.per = per or ("char" if self.learns else "token")
        self.max_tokens = max_tokens
        self.stride = stride
        self.batch_tokens = batch_tokens
        self.dtype: Dtype = dtype
        self.revision = revision
        self.columns = (column,)
        self.device = "cpu"
        self._counted: CharacterModel | None = None

    def fit(self, batch: "Batch", labels: np.ndarray | None = None) -> Self:
        """Forget, then count the characters of all rows; labels are ignored. Nothing, unless of `ngram`.

        Raises:
            ValueError: No rows, or one that is no string.
        """
        if self.learns:
            texts = texts_to_learn(batch, self.columns[0], "perplexity")
            self._counted = CharacterModel(self.order).fit(texts)
        return self

    def state(self) -> dict[str, np.ndarray]:
        """Return counts by name; see FittedScorer."""
        return self._ngram.state() if self.learns else {}

    def load_state(self, state: Mapping[str, np.ndarray]) -> Self:
        """Take over counts; see FittedScorer."""
        if self.learns:
            self._counted = CharacterModel(self.order).load_state(state)
        return self

    def score(self, batch: "Batch") -> np.ndarray:
        """Return float64 [n], nats for each unit; NaN for a row that is no string or has no units.

        Raises:
            NotFittedError: The n-gram model has counted nothing.
        """
        return score_texts(batch, self.columns[0], self._by_ngram if self.learns else self._by_network)

    def to(self, device: str) -> Self:
        """Compute there from now on; the n-gram model stays where it is."""
        self.device = device
        if "_network" in vars(self):
            self._network.net.to(device)
        return self

    def _by_ngram(self, texts: list[str]) -> np.ndarray:
        return _means(self._ngram.losses(texts), [len(text) for text in texts])

    def _by_network(self, texts: list[str]) -> np.ndarray:
        network = self._network
        window = min(self.max_tokens or network.usual, network.limit)
        stride = self.stride or max(1, window // 2)
        if stride >= window:
            raise ValueError(f"perplexity: stride {stride} must be below the model's {window} tokens")
        losses = network.token_losses(
            network.tokens(texts), window=window, stride=stride, batch_tokens=self.batch_tokens
        )
        units = [
            len(text) if self.per == "char" else len(loss) for text, loss in zip(texts, losses, strict=True)
        ]
        return _means([float(loss.sum()) if len(loss) else np.nan for loss in losses], units)

    @property
    def _ngram(self) -> CharacterModel:
        if self._counted is None:
            raise NotFittedError(
                "perplexity: nothing learned yet; call fit(), or give the step `fit: <split>`"
            )
        return self._counted

    @cached_property
    def _network(self) -> "CausalModel":
        # Loads torch and the weights: where it scores, not where a spec is checked.
        from ray_app.methods._causal import CausalModel

        return CausalModel(
            self.model, name="perplexity", revision=self.revision, dtype=self.dtype, device=self.device
        )


def _means(sums: Sequence[float] | np.ndarray, units: Sequence[int]) -> np.ndarray:
    counts = np.asarray(units, dtype=np.float64)
    counts[counts == 0] = np.nan
    return cast(np.ndarray, np.asarray(sums, dtype=np.float64) / counts)
