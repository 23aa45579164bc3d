"""The suite of scorers refuses those that are broken on purpose."""

from collections.abc import Callable

import numpy as np
import pytest

from ray_app.methods.scorers import Scorer
from ray_app.methods.scorers.heuristics import Heuristics
from ray_app.methods.scorers.perplexity import Perplexity
from ray_app.testing.scorers import check_scorer

Batch = dict[str, np.ndarray]
ROWS: Batch = {"text": np.array(["one two", "three four five", "six", "one one one"], dtype=object)}
BAD: Batch = {"text": np.array([None], dtype=object)}


class SeesItsNeighbours(Heuristics):
    def score(self, batch: Batch) -> np.ndarray:
        score = super().score(batch)
        return score + len(score)


class ZeroForABadRow(Heuristics):
    def score(self, batch: Batch) -> np.ndarray:
        return np.nan_to_num(super().score(batch))


class SinglePrecision(Heuristics):
    def score(self, batch: Batch) -> np.ndarray:
        return super().score(batch).astype(np.float32)


class DrawsFromTheGlobalGenerator(Heuristics):
    def score(self, batch: Batch) -> np.ndarray:
        return super().score(batch) + np.random.rand() * 0  # noqa: NPY002 (what the suite must see)


class AnswersUnfitted(Perplexity):
    def score(self, batch: Batch) -> np.ndarray:
        return super().score(batch) if self._counted else np.zeros(len(batch["text"]))


class HidesItsState(Perplexity):
    def fit(self, batch: Batch, labels: np.ndarray | None = None) -> "HidesItsState":
        self.scale = len(batch["text"])
        return super().fit(batch, labels)

    def score(self, batch: Batch) -> np.ndarray:
        return super().score(batch) * getattr(self, "scale", 1)


class KeepsNothing(Perplexity):
    def state(self) -> Batch:
        super().state()
        return {}


class NeverForgets(Perplexity):
    def fit(self, batch: Batch, labels: np.ndarray | None = None) -> "NeverForgets":
        self.seen = np.concatenate([getattr(self, "seen", batch["text"][:0]), batch["text"]])
        return super().fit({"text": self.seen}, labels)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (SeesItsNeighbours, "split into batches"),
        (ZeroForABadRow, "must get NaN"),
        (SinglePrecision, "float64"),
        (DrawsFromTheGlobalGenerator, "NumPy's global generator"),
        (AnswersUnfitted, "before fit must raise NotFittedError"),
        (HidesItsState, "through safetensors"),
        (KeepsNothing, "state must be empty exactly"),
        (NeverForgets, "fit must forget"),
    ],
)
def test_broken_scorers_are_refused(make: Callable[[], Scorer], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_scorer(make, ROWS, BAD)
