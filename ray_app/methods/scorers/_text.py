"""What scorers of text share: which rows hold text at all, and NaN for the others."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ray_app.methods import Batch


def score_texts(
    batch: "Batch", column: str, score: Callable[[list[str]], Sequence[float] | np.ndarray]
) -> np.ndarray:
    """Return float64 [n]: what `score` says of the rows that are strings, NaN for the others.

    Args:
        batch: Any rows.
        column: Which of its columns holds text.
        score: Is given the strings, in order, at least one.
    """
    values = batch[column]
    rows = [row for row, value in enumerate(values) if isinstance(value, str)]
    result = np.full(len(values), np.nan)
    if rows:
        result[rows] = score([values[row] for row in rows])
    return result


def texts_to_learn(batch: "Batch", column: str, name: str) -> list[str]:
    """Return the strings of a column to learn from.

    Args:
        batch: Rows.
        column: Which of its columns holds text.
        name: The method's name, for errors.

    Raises:
        ValueError: No rows, or one that is no string.
    """
    texts = list(batch[column])
    if not texts:
        raise ValueError(f"{name}: no rows to fit on; is the split empty?")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"{name}: row {row} of {column!r} is {type(text).__name__}; drop such rows before fit()"
            )
    return texts
