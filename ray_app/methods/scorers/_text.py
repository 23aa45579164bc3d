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


def wanted_or_not(labels: np.ndarray | Sequence[int] | None, n: int, name: str) -> np.ndarray:
    """Return labels int64 [n], 0 and 1, both there.

    Args:
        labels: What should be such.
        n: How many rows there are.
        name: The method's name, for errors.

    Raises:
        ValueError: They are not.
    """
    if labels is None:
        raise ValueError(f"{name}: no labels; give 1 for what is wanted and 0 for what is not")
    found = np.asarray(labels)
    if found.shape != (n,) or found.dtype.kind not in "iub" or set(np.unique(found)) != {0, 1}:
        kinds = np.unique(found)[:5].tolist()
        raise ValueError(
            f"{name}: labels are {found.dtype} {list(found.shape)} with {kinds} for {n} rows; expected 0 and"
            " 1, both there"
        )
    return found.astype(np.int64)
