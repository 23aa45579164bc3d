"""The contract of scorers."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ray_app.errors import NotFittedError
from ray_app.methods.scorers import FittedScorer, Scorer
from ray_app.testing._expect import expect, expect_raises, permuted, untouched

if TYPE_CHECKING:
    from ray_app.methods import Batch


def check_scorer(make: Callable[[], Scorer], batch: "Batch", bad: "Batch | None" = None) -> None:
    """Check everything that scorers promise.

    Args:
        make: Returns a fresh scorer.
        batch: Rows that it can score, and learn from where it does, at least four; `label` where it needs it.
        bad: A row that it cannot score; None: there is no such.

    Raises:
        AssertionError: With a sentence about what does not hold.
    """
    scorer = make()
    expect(isinstance(scorer.higher_is_better, bool), "it must declare higher_is_better")
    expect(isinstance(scorer.heavy, bool), "it must declare whether it is heavy")
    expect(set(scorer.columns) <= set(batch), f"the columns {scorer.columns} must be in the batch")
    n = len(batch[scorer.columns[0]])
    if isinstance(scorer, FittedScorer) and scorer.learns:
        _check_unfitted(scorer, batch)
    with untouched(batch):
        if isinstance(scorer, FittedScorer):
            expect(scorer.fit(batch, batch.get("label")) is scorer, "fit must return the scorer")
        score = scorer.score(batch)
    expect(score.shape == (n,) and score.dtype == np.float64, f"score must return float64 [{n}]")
    expect(np.isfinite(score).all(), "rows that can be scored must have finite scores")
    expect(scorer.to("cpu") is scorer, "to must return the scorer")
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
    if isinstance(scorer, FittedScorer):
        _check_fitted(scorer, make, batch, score)


def _check_unfitted(scorer: FittedScorer, batch: "Batch") -> None:
    expect_raises(NotFittedError, lambda: scorer.score(batch), "score before fit must raise NotFittedError")
    expect_raises(NotFittedError, scorer.state, "state before fit must raise NotFittedError")
    none = {name: values[:0] for name, values in batch.items()}
    expect_raises(ValueError, lambda: scorer.fit(none, none.get("label")), "fit on no rows must be refused")


def _check_fitted(
    scorer: FittedScorer, make: Callable[[], Scorer], batch: "Batch", score: np.ndarray
) -> None:
    from safetensors.numpy import load, save

    state = scorer.state()
    expect(bool(state) == scorer.learns, "state must be empty exactly where there is nothing to learn")
    expect(
        all(isinstance(value, np.ndarray) and value.dtype.kind in "iufb" for value in state.values()),
        "state must be arrays of numbers",
    )
    fresh = make()
    expect(isinstance(fresh, FittedScorer), "every instance must be fitted alike")
    if isinstance(fresh, FittedScorer):
        carried = load(save({name: np.ascontiguousarray(value) for name, value in state.items()}))
        expect(fresh.load_state(carried) is fresh, "load_state must return the scorer")
        expect(np.array_equal(fresh.score(batch), score), "through safetensors, scores must stay the same")
        again = make()
        if isinstance(again, FittedScorer):
            half = {name: values[: len(values) // 2] for name, values in batch.items()}
            if len(np.unique(half.get("label", ()))) == len(np.unique(batch.get("label", ()))):
                again.fit(half, half.get("label"))
            again.fit(batch, batch.get("label"))
            expect(
                np.allclose(again.score(batch), score), "fit must forget, and the same rows teach the same"
            )


def _mixed(good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    column = np.empty(len(good) + 1, dtype=object)
    column[:] = [bad[0], *good]
    return column
