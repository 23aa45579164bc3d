"""Feature density of a row: how many of its features are different ones.

    score = distinct features / features        in (0, 1]

Low where a text repeats itself. It falls with a text's length, so only the first `first` features count.

Reference: J. Eronen, M. Ptaszynski, F. Masui, A. Smywiński-Pohl, G. Leliwa, M. Wroczynski, "Improving
    Classifier Training Efficiency for Automatic Cyberbullying Detection with Feature Density", IPM 2021,
    https://arxiv.org/abs/2111.01689
Departure: the paper measures a corpus, which is what the diagnostic of the same name does.
Cost: O(characters).
"""

from typing import TYPE_CHECKING, Literal

import numpy as np

from ray_app.methods._linguistic import Linguistic, Unit
from ray_app.methods.scorers import Scorer

if TYPE_CHECKING:
    from ray_app.methods import Batch


class FeatureDensity(Scorer):
    """Finds texts that repeat themselves.

    Args:
        column: The column with the texts.
        first: Features that count, from the first on; None: all.
        unit: `token`; `stem`; `tag`, a coarse part of speech; `token_tag`, both joined; `chunk`, runs of
            words between stop words and marks; `char`, a character; `ending`, a word's last letter.
        stop: `keep` stop words, `drop` them, or keep them `only`.
        alpha: Keep only words of letters.
        lower: Regard upper and lower case as one.
        n: Units in a row that make one feature.
    """

    higher_is_better = True

    def __init__(
        self,
        *,
        column: str = "text",
        first: int | None = 200,
        unit: Unit = "token",
        stop: Literal["keep", "drop", "only"] = "keep",
        alpha: bool = False,
        lower: bool = True,
        n: int = 1,
    ) -> None:
        if first is not None and first < 1:
            raise ValueError(f"feature_density: first must be >= 1 features, got {first!r}; try 200")
        self.columns = (column,)
        self.first = first
        self._linguistic = Linguistic(unit=unit, stop=stop, alpha=alpha, lower=lower, n=n)

    def score(self, batch: "Batch") -> np.ndarray:
        """Return float64 [n]; NaN for a row without text, or without features."""
        return np.array([self._one(value) for value in batch[self.columns[0]]], dtype=np.float64)

    def _one(self, value: object) -> float:
        features = self._linguistic.features(value)[: self.first] if isinstance(value, str) else []
        return len(set(features)) / len(features) if features else float("nan")
