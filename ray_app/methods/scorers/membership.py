"""Membership: how likely a text was among those that a language model was trained on; higher is more likely.

    loss        -l(x)                                      l: mean negative log-likelihood of a token, nats
    mink        -(mean of the share k of tokens that cost most)
    zlib        -l(x) / bytes of x compressed
    flora       l_base(x) - l(x)                           the base is known; it takes out how easy x is
    gradnorm    -||grad l(x)||_p                           members lie where the loss is flat
    alora       l(x; w - lr grad l(x)) - l(x; w)           one step lowers the loss of members less
    supervised  probability of a logistic regression on x's loss, signed sums and norms of its gradient by
                layer, taught by known members (label 1) and others (label 0)

`compare: ratio` divides where flora and alora subtract.

Reference: J. G. Wang, J. Wang, M. Li, S. Neel, "Pandora's White-Box: Precise Training Data Detection and
    Extraction in Large Language Models", 2024, https://arxiv.org/abs/2402.17012; W. Shi et al., "Detecting
    Pretraining Data from Large Language Models", ICLR 2024, https://arxiv.org/abs/2310.16789 (mink);
    N. Carlini et al., "Extracting Training Data from Large Language Models", USENIX Security 2021,
    https://arxiv.org/abs/2012.07805 (zlib)
Departure: the paper projects a layer's gradient by a dense matrix of signs; here each of the sums takes its
    share of the gradient's entries, so a projection costs one pass over the gradient.
Cost: one forward pass; flora two; the white-box kinds a forward and a backward pass of each text alone, alora
    another forward pass and a copy of the weights.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from ray_app.errors import NotFittedError
from ray_app.methods.scorers import FittedScorer
from ray_app.methods.scorers._text import score_texts, texts_to_learn, wanted_or_not

if TYPE_CHECKING:
    from ray_app.methods import Batch
    from ray_app.methods._causal import Dtype
    from ray_app.methods.scorers._membership import Signals, Sketch

Kind = Literal["loss", "mink", "zlib", "flora", "gradnorm", "alora", "supervised"]
_KINDS = ("loss", "mink", "zlib", "flora", "gradnorm", "alora", "supervised")
_PARTS = ("mean", "scale", "weights", "bias")


class Membership(FittedScorer):
    """Use it to drop rows that a model has memorised, and, with the diagnostic `leakage`, to judge the model.

    Members and others that it is judged by must come from one distribution, or it measures their difference.

    Args:
        model: A causal language model's folder or name on the hub.
        kind: Which signal, see above; flora where the base is known, else alora or supervised.
        base: The model that it was fine-tuned from; of flora only.
        compare: How flora and alora compare two losses.
        k: Share of tokens, of mink.
        p: Which norm, of gradnorm: 1, 2 or inf.
        lr: The step's length, of alora: about what the model was trained with.
        dim: Signed sums for each layer, of supervised.
        C: Inverse strength of the penalty, of supervised.
        seed: Of the signs, of supervised.
        max_tokens: Most tokens of a text that are looked at; None: what the model can take, up to 1024.
        batch_tokens: Most tokens in a forward pass.
        dtype: Of the weights.
        revision: Which version on the hub.
        column: Holds the text.
    """

    # What a model knows already is not worth teaching it again, and is what must not leak.
    higher_is_better = False
    heavy = True

    def __init__(
        self,
        *,
        model: str,
        kind: Kind = "loss",
        base: str | None = None,
        compare: Literal["difference", "ratio"] = "difference",
        k: float = 0.2,
        p: float = 2.0,
        lr: float = 1e-2,
        dim: int = 32,
        C: float = 0.01,
        seed: int = 0,
        max_tokens: int | None = None,
        batch_tokens: int = 4096,
        dtype: "Dtype" = "float32",
        revision: str | None = None,
        column: str = "text",
    ) -> None:
        p = float(p)  # YAML may write inf as a word
        if kind not in _KINDS:
            raise ValueError(f"membership: kind must be one of {', '.join(_KINDS)}, got {kind!r}")
        if (kind == "flora") != (base is not None):
            raise ValueError(
                f"membership: kind {kind} with base {base!r}; flora needs the base, and no other kind has one"
            )
        if compare not in ("difference", "ratio"):
            raise ValueError(f"membership: compare must be difference or ratio, got {compare!r}")
        if not 0 < k <= 1:
            raise ValueError(f"membership: k must be in 0..1, 0 excluded, got {k!r}; try 0.2")
        if p not in (1, 2, np.inf):
            raise ValueError(f"membership: p must be 1, 2 or inf, got {p!r}")
        for name, value in (("lr", lr), ("C", C)):
            if not value > 0:
                raise ValueError(f"membership: {name} must be > 0, got {value!r}")
        for name, least in (("dim", dim), ("max_tokens", max_tokens), ("batch_tokens", batch_tokens)):
            if least is not None and least < 1:
                raise ValueError(f"membership: {name} must be >= 1, got {least!r}")
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"membership: dtype must be float32, bfloat16 or float16, got {dtype!r}")
        self.kind: Kind = kind
        self.learns = kind == "supervised"
        self.model = model
        self.base = base
        self.compare = compare
        self.k, self.p, self.lr = k, p, lr
        self.dim, self.C, self.seed = dim, C, seed
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self.dtype: Dtype = dtype
        self.revision = revision
        self.columns = (column,)
        self.device = "cpu"
        self._learned: dict[str, np.ndarray] | None = None

    def fit(self, batch: "Batch", labels: np.ndarray | None = None) -> Self:
        """Forget, then learn from members (label 1) and others (label 0); nothing, unless supervised.

        Never judge it by the rows that it learned from.

        Raises:
            ValueError: No rows, one that is no string or too short, or labels that are not 0 and 1.
        """
        if not self.learns:
            return self
        from sklearn.linear_model import LogisticRegression

        texts = texts_to_learn(batch, self.columns[0], "membership")
        truth = wanted_or_not(labels, len(texts), "membership")
        x = self._signals.features(texts, self._sketch)
        if not np.isfinite(x).all():
            bad = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
            raise ValueError(
                f"membership: row {bad} has no gradient to learn from; drop such rows before fit()"
            )
        mean, scale = x.mean(0), x.std(0)
        scale[scale == 0] = 1
        model = LogisticRegression(C=self.C, class_weight="balanced", max_iter=1000)
        model.fit((x - mean) / scale, truth)
        self._learned = {"mean": mean, "scale": scale, "weights": model.coef_[0], "bias": model.intercept_}
        return self

    def state(self) -> dict[str, np.ndarray]:
        """Return the regression's arrays; empty, unless supervised."""
        return dict(self._fitted) if self.learns else {}

    def load_state(self, state: Mapping[str, np.ndarray]) -> Self:
        """Take over a regression; see FittedScorer."""
        if self.learns:
            if set(state) != set(_PARTS):
                found = ", ".join(sorted(state)) or "nothing"
                raise ValueError(f"membership: the state has {found}; expected {', '.join(_PARTS)}")
            self._learned = {name: np.asarray(state[name], dtype=np.float64) for name in _PARTS}
        return self

    def score(self, batch: "Batch") -> np.ndarray:
        """Return float64 [n], higher is more likely a member; NaN for a row that is no string or is empty.

        Raises:
            NotFittedError: Supervised, and nothing was learned yet.
            ValueError: What was learned is of another model.
        """
        if self.learns:
            _ = self._fitted  # before the model is loaded
        return score_texts(batch, self.columns[0], getattr(self, f"_{self.kind}"))

    def to(self, device: str) -> Self:
        """Compute there from now on."""
        self.device = device
        if "_signals" in vars(self):
            self._signals.to(device)
        return self

    def _loss(self, texts: list[str]) -> np.ndarray:
        return -self._signals.losses(texts)

    def _mink(self, texts: list[str]) -> np.ndarray:
        return -self._signals.dearest(texts, self.k)

    def _zlib(self, texts: list[str]) -> np.ndarray:
        return -self._signals.losses(texts) / self._signals.bytes_compressed(texts)

    def _flora(self, texts: list[str]) -> np.ndarray:
        signals = self._signals
        return self._compared(signals.losses(texts, signals.base), signals.losses(texts))

    def _gradnorm(self, texts: list[str]) -> np.ndarray:
        return -self._signals.gradient_norms(texts, self.p)

    def _alora(self, texts: list[str]) -> np.ndarray:
        before, after = self._signals.steps(texts, self.lr)
        return self._compared(after, before)

    def _supervised(self, texts: list[str]) -> np.ndarray:
        from scipy.special import expit

        learned, x = self._fitted, self._signals.features(texts, self._sketch)
        if x.shape[1] not in (1, len(learned["mean"])):
            raise ValueError(
                f"membership: gradients have {x.shape[1]} features, fitted on {len(learned['mean'])}; was the"
                " state made with another model?"
            )
        if x.shape[1] == 1:  # not one text with a token to predict
            return np.full(len(x), np.nan)
        proba: np.ndarray = expit(
            (x - learned["mean"]) / learned["scale"] @ learned["weights"] + learned["bias"]
        )
        return proba

    def _compared(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return first / second if self.compare == "ratio" else first - second

    @property
    def _fitted(self) -> dict[str, np.ndarray]:
        if self._learned is None:
            raise NotFittedError(
                "membership: nothing learned yet; call fit() with known members, or give `fit: <split>`"
            )
        return self._learned

    @cached_property
    def _signals(self) -> "Signals":
        # Loads torch and the weights: where it scores, not where a spec is checked.
        from ray_app.methods.scorers._membership import Signals

        return Signals(
            self.model,
            self.base,
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            max_tokens=self.max_tokens,
            batch_tokens=self.batch_tokens,
        )

    @cached_property
    def _sketch(self) -> "Sketch":
        from ray_app.methods.scorers._membership import Sketch

        return Sketch(self.dim, self.seed)
