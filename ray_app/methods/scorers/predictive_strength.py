"""Predictive strength: does a text order language models as their abilities do? Learned, then applied to all.

    S(x) = (1/Z) sum_{i<j} 1[ (s_i - s_j) (l_j(x) - l_i(x)) > 0 ]           in [0, 1]

s: the models' abilities (their mean score on the tasks that matter); l(x): a model's loss of the text, nats a
character; Z: pairs of models whose abilities differ. Rows with S = 1 against equally many with the lowest S
teach the scorer of hashed text, whose probability is the score of any row: the models read a sample only.

Reference: K. Shum et al., "Predictive Data Selection: The Data That Predicts Is the Data That Teaches", ICML
    2025, https://arxiv.org/abs/2503.00808
Departure: logistic regression on hashed words for fastText (see hashed_text). A tie of losses counts as
    wrong. Of rows with equal S, a hash of the text says which are taken.
Cost: fit M forward passes over the sample; score as hashed_text.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from ray_app.methods.scorers import FittedScorer, Scorer
from ray_app.methods.scorers._text import texts_to_learn
from ray_app.methods.scorers.hashed_text import HashedText
from ray_app.methods.scorers.perplexity import Perplexity

if TYPE_CHECKING:
    from ray_app.methods import Batch


class PredictiveStrength(FittedScorer):
    """Finds the data that tell good models from bad ones: what abilities measure decides what is wanted.

    Args:
        abilities: Of each model, in any unit; higher is better.
        models: Folders or hub names of causal language models, files with the state of n-gram models
            (`*.safetensors`), or, from Python, scorers whose score is a loss; not needed to load a state.
        examples: Most rows of each kind to learn from, the highest S first; None: all with S = 1.
        ngrams: See hashed_text.
        buckets: See hashed_text.
        C: See hashed_text.
        column: Holds the text.
    """

    higher_is_better = True

    def __init__(
        self,
        *,
        abilities: Sequence[float],
        models: "Sequence[str | Scorer]" = (),
        examples: int | None = None,
        ngrams: int = 2,
        buckets: int = 2**18,
        C: float = 10.0,
        column: str = "text",
    ) -> None:
        self.abilities = np.asarray(abilities, dtype=np.float64)
        if self.abilities.ndim != 1 or len(np.unique(self.abilities)) < 2:
            raise ValueError(
                f"predictive_strength: abilities must be one number a model, two of them different, got"
                f" {abilities!r}"
            )
        if not np.isfinite(self.abilities).all():
            raise ValueError(f"predictive_strength: abilities must be finite, got {abilities!r}")
        if models and len(models) != len(self.abilities):
            raise ValueError(
                f"predictive_strength: {len(models)} models, {len(self.abilities)} abilities; give one each"
            )
        if examples is not None and examples < 1:
            raise ValueError(
                f"predictive_strength: examples must be >= 1, got {examples!r}; leave it out for all"
            )
        self.models = list(models)
        self.examples = examples
        self.columns = (column,)
        self.device = "cpu"
        self.distilled = HashedText(ngrams=ngrams, buckets=buckets, C=C, column=column)

    def score_losses(self, losses: np.ndarray) -> np.ndarray:
        """Return S float64 [n] in 0..1 of losses [n, m], one column a model; NaN where a loss is.

        Raises:
            ValueError: There is not one column a model.
        """
        x = np.asarray(losses, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != len(self.abilities):
            raise ValueError(
                f"predictive_strength: losses are {list(x.shape)}; expected [n, {len(self.abilities)}]"
            )
        first, second = np.triu_indices(len(self.abilities), k=1)
        gaps = self.abilities[first] - self.abilities[second]
        right = (x[:, second] - x[:, first]) * np.sign(gaps) > 0
        strength = right[:, gaps != 0].mean(1)
        strength[np.isnan(x).any(1)] = np.nan
        return strength

    def strength(self, batch: "Batch") -> np.ndarray:
        """Return S float64 [n] by reading the rows with all models.

        Raises:
            ValueError: There are no models.
        """
        if not self._losses:
            raise ValueError("predictive_strength: no models to fit with; name one for each ability")
        return self.score_losses(np.stack([model.score(batch) for model in self._losses], axis=1))

    def fit(self, batch: "Batch", labels: np.ndarray | None = None) -> Self:
        """Forget, then learn which texts order the models rightly; labels are ignored.

        Raises:
            ValueError: No rows, one that is no string, or none that orders all models rightly.
        """
        texts = texts_to_learn(batch, self.columns[0], "predictive_strength")
        wanted, unwanted = self.chosen(self.strength(batch), texts)
        rows = np.concatenate([wanted, unwanted])
        truth = np.repeat([1, 0], [len(wanted), len(unwanted)])
        self.distilled.fit({self.columns[0]: batch[self.columns[0]][rows]}, truth)
        return self

    def chosen(self, strength: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to learn from, wanted and unwanted ones, equally many.

        Args:
            strength: S [n]; NaN: never taken.
            texts: Whose S it is.

        Raises:
            ValueError: No row has S = 1 and `examples` is not given, or fewer than two rows.
        """
        ties = np.array([_hash(text) for text in texts], dtype=np.uint64)
        order = np.lexsort((ties, -strength))
        order = order[np.isfinite(strength[order])]
        most = int((strength == 1).sum()) if self.examples is None else self.examples
        count = min(most, len(order) // 2)
        if not count:
            raise ValueError(
                f"predictive_strength: {most} of {len(order)} rows order all models rightly; give more rows,"
                " or say how many `examples` to take"
            )
        return order[:count], order[-count:]

    def state(self) -> dict[str, np.ndarray]:
        """Return the distilled scorer's weights."""
        return self.distilled.state()

    def load_state(self, state: Mapping[str, np.ndarray]) -> Self:
        """Take over weights; the models are not needed then."""
        self.distilled.load_state(state)
        return self

    def score(self, batch: "Batch") -> np.ndarray:
        """Return float64 [n] in 0..1; NaN for a row that is no string; see hashed_text."""
        return self.distilled.score(batch)

    def to(self, device: str) -> Self:
        """Fit on a device; scoring needs none."""
        self.device = device
        if "_losses" in vars(self):
            for model in self._losses:
                model.to(device)
        return self

    @cached_property
    def _losses(self) -> list[Scorer]:
        return [self._loss(model).to(self.device) for model in self.models]

    def _loss(self, model: "str | Scorer") -> Scorer:
        if isinstance(model, Scorer):
            return model
        if model.endswith(".safetensors"):
            return _counted(model, self.columns[0])
        return Perplexity(model=model, per="char", column=self.columns[0])


def _counted(path: str, column: str) -> Perplexity:
    from safetensors.numpy import load_file

    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises a class of its own for damaged files, OSError for others
        raise ValueError(
            f"predictive_strength: {path} cannot be read ({error}); is it a scorer's state?"
        ) from error
    orders = sum(name.startswith("grams.") for name in state)
    return Perplexity(order=max(1, orders), column=column).load_state(state)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
