"""The contract of scorers."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ray_app.methods.scorers import FittedScorer, Scorer
from ray_app.testing._expect import expect, permuted, untouched

if TYPE_CHECKING:
    from ray_app.methods import Batch


def check_scorer(make: Callable[[], Scorer], batch: "Batch", bad: "Batch | None" = None) -> None:
    """Check everything that scorers promise.

    Args:
        make: Returns a fresh scorer.
        batch: Rows that it can score, at least four.
        bad: A row that it cannot score; None: there is no such.

    Raises:
        AssertionError: With a sentence about what does not hold.
    """
    scorer = make()
    expect(isinstance(scorer.higher_is_better, bool), "it must declare higher_is_better")
    expect(set(scorer.columns) <= set(batch), f"the columns {scorer.columns} must be in the batch")
    n = len(batch[scorer.columns[0]])
    with untouched(batch):
        if isinstance(scorer, FittedScorer):
            expect(scorer.fit(batch, batch.get("label")) is scorer, "fit must return the scorer")
        score = scorer.score(batch)
    expect(score.shape == (n,) and score.dtype == np.float64, f"score must return float64 [{n}]")
    expect(np.isfinite(score).all(), "rows that can be scored must have finite scores")
    order = permuted(n).numpy()
    shuffled = scorer.score({name: values[order] for name, values in batch.items()})
    expect(np.allclose(shuffled, score[order]), "the order of rows must not matter")
    parts = [
        scorer.score({name: values[row : row + 1] for name, values in batch.items()}) for row in range(n)
    ]
    expect(np.allclose(np.concatenate(parts), score), "the split into batches must not matter")
    expect(
        scorer.score({name: values[:0] for name, values in batch.items()}).shape == (0,),
        "no rows must give [0]",
    )
    if bad is not None:
        mixed = {name: _mixed(batch[name], bad[name]) for name in batch}
        with_bad = scorer.score(mixed)
        expect(np.isnan(with_bad[0]), "a row that cannot be scored must get NaN")
        expect(np.allclose(with_bad[1:], score), "a bad row must not harm the others")


def _mixed(good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    column = np.empty(len(good) + 1, dtype=object)
    column[:] = [bad[0], *good]
    return column
