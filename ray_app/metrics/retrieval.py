"""How well a ranking puts what is relevant first."""

import numpy as np
from numpy.typing import ArrayLike


def mean_average_precision(scores: ArrayLike, relevant: ArrayLike, kept: ArrayLike | None = None) -> float:
    """Return the mean over queries of the average precision of their rankings, in 0..1.

        average precision = sum_r (recall_r - recall_{r-1}) precision_r     over the thresholds r, best first

    Args:
        scores: [q, n]; a row ranks the n entries for a query, higher first.
        relevant: Booleans [q, n]; each query has a relevant entry.
        kept: Booleans [q, n]; False leaves an entry out of a query's ranking (the query itself, say). None:
            all are ranked.

    Raises:
        ValueError: Shapes that do not fit, scores that are not finite, or a query without a relevant entry.
    """
    from sklearn.metrics import average_precision_score

    s, truth = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    ranked = np.ones_like(truth) if kept is None else np.asarray(kept, dtype=bool)
    if s.ndim != 2 or not len(s) or truth.shape != s.shape or ranked.shape != s.shape:
        raise ValueError(
            f"mean_average_precision: scores {s.shape}, relevant {truth.shape}, kept {ranked.shape}; "
            "expected [q, n] each, q >= 1"
        )
    if not np.isfinite(s[ranked]).all():
        raise ValueError("mean_average_precision: a score is not finite; mend or leave out that entry")
    empty = ~(truth & ranked).any(1)
    if empty.any():
        raise ValueError(
            f"mean_average_precision: query {int(empty.argmax())} has no relevant entry; leave it out"
        )
    rows = zip(s, truth, ranked, strict=True)
    return float(np.mean([average_precision_score(right[use], row[use]) for row, right, use in rows]))
