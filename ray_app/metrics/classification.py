"""How right class probabilities are."""

import numpy as np
from numpy.typing import ArrayLike

from ray_app.metrics._arrays import proba_of


def accuracy(proba: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of rows whose most probable class is the true one, in 0..1.

    Args:
        proba: [n, c], probabilities or logits.
        labels: Integers [n] in 0..c-1.

    Raises:
        ValueError: Shapes or labels do not fit, or n = 0.
    """
    p, y = proba_of(proba, labels, "accuracy")
    return float((p.argmax(1) == y).mean())


def nll(proba: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean of minus the log probability of the true class, in nats; lower is better.

    A probability of 0 counts as the least positive normal number of float32 (which probabilities are stored
    in).

    Args:
        proba: Probabilities [n, c].
        labels: Integers [n] in 0..c-1.

    Raises:
        ValueError: Shapes or labels do not fit, or n = 0.
    """
    p, y = proba_of(proba, labels, "nll")
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], np.finfo(np.float32).tiny)).mean())


def per_class_accuracy(proba: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return float64 [c]: accuracy over the rows of each class; nan for a class without rows.

    Args:
        proba: [n, c], probabilities or logits.
        labels: Integers [n] in 0..c-1.

    Raises:
        ValueError: Shapes or labels do not fit, or n = 0.
    """
    counts = confusion(proba, labels)
    rows = counts.sum(1)
    return np.where(rows > 0, counts.diagonal() / np.maximum(rows, 1), np.nan)


def confusion(proba: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return int64 [c, c]: rows of true class i that are predicted as class j.

    Args:
        proba: [n, c], probabilities or logits.
        labels: Integers [n] in 0..c-1.

    Raises:
        ValueError: Shapes or labels do not fit, or n = 0.
    """
    from sklearn.metrics import confusion_matrix

    p, y = proba_of(proba, labels, "confusion")
    return confusion_matrix(y, p.argmax(1), labels=np.arange(p.shape[1])).astype(np.int64)
