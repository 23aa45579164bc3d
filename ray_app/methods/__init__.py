"""The methods: plain torch, NumPy and scikit-learn. Nothing here knows Ray, a file format or a command line.

A family is a folder whose `__init__` holds its contract; a method is a file with one public class. The words
that all families share are here.
"""

from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ray_app.methods.encoders import Features

    Batch: TypeAlias = dict[str, np.ndarray]
    """Column → array with n rows: Ray Data's NumPy batch. Ragged and encoded values are object arrays."""

    StateDict: TypeAlias = dict[str, Tensor]
    """Parameter or buffer name → tensor, as `nn.Module.state_dict` gives it."""


@runtime_checkable
class Mergeable(Protocol):
    """A method that learns from sums, so that a corpus of any size is one parallel pass.

    Merging equals fitting at once, to 1e-5, however the rows were divided and in whatever order they came.
    """

    def partial_fit(self, features: "Features", labels: "Tensor | None" = None) -> Self:
        """Learn from more rows; no rows (n = 0) change nothing."""
        ...

    def merge(self, other: Self) -> Self:
        """Learn what `other` learned."""
        ...
