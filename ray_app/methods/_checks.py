"""What heads and detectors ask of features and labels, before they touch them."""

import torch
from torch import Tensor


def matrix(values: Tensor, name: str, width: int | None = None) -> Tensor:
    """Return features [n, d] as they are.

    Args:
        values: What should be [n, d].
        name: The method's name, for errors.
        width: The fitted d; None or 0: not fitted yet.

    Raises:
        ValueError: Not a matrix of floats, or of another width than the fitted one.
    """
    if values.ndim != 2 or not values.is_floating_point():
        raise ValueError(
            f"{name}: features are {values.dtype} {list(values.shape)}; expected floats [n, d]; pool them"
        )
    if width and values.shape[1] != width:
        raise ValueError(
            f"{name}: features have {values.shape[1]} dimensions, fitted on {width}; "
            "was the state made with another encoder?"
        )
    return values


def finite(values: Tensor, name: str) -> Tensor:
    """Return features [n, d] to learn from.

    Raises:
        ValueError: A value is not finite: one such row would spoil every sum for good.
    """
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values).all(1)).nonzero()[0])
        raise ValueError(f"{name}: row {bad} of the features is not finite; drop such rows before fit()")
    return values


def indices(labels: Tensor, n: int, name: str, num_classes: int | None = None) -> Tensor:
    """Return class indices int64 [n].

    Args:
        labels: What should be integers [n] in 0..c-1.
        n: How many rows the features have.
        name: The method's name, for errors.
        num_classes: c, where it is known.

    Raises:
        ValueError: Wrong shape, type or range.
    """
    if labels.shape != (n,):
        raise ValueError(f"{name}: labels are {list(labels.shape)} for {n} rows of features; expected [{n}]")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"{name}: labels are {labels.dtype}; expected class indices, int64 in 0..c-1")
    if n and int(labels.min()) < 0:
        raise ValueError(
            f"{name}: a label is {int(labels.min())}; expected 0..c-1, drop unlabelled rows first"
        )
    if n and num_classes is not None and int(labels.max()) >= num_classes:
        raise ValueError(f"{name}: label {int(labels.max())} is beyond num_classes={num_classes}; raise it")
    return labels.long()


def some(n: int, name: str) -> None:
    """Refuse to fit on nothing.

    Raises:
        ValueError: n = 0.
    """
    if n == 0:
        raise ValueError(f"{name}: no rows to fit on; is the split empty?")
