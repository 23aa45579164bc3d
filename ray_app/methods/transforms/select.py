"""Selection: only rows whose value in a column is one of those named, or lies within bounds.

Bounds are included. A missing number (NaN) lies within none.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ray_app.methods.transforms import Transform

if TYPE_CHECKING:
    from ray_app.methods import Batch


class Select(Transform):
    """Keep some classes, the best rows by a score, or all but those (`drop`).

    Args:
        column: Whose values decide.
        values: Keep rows with one of these.
        at_least: Keep rows with this or more.
        at_most: Keep rows with this or less.
        drop: Keep all other rows instead.
    """

    columns: Sequence[str]  # type: ignore[misc]  # it depends on the options here

    def __init__(
        self,
        *,
        column: str,
        values: Sequence[str | int | float | bool] | None = None,
        at_least: float | None = None,
        at_most: float | None = None,
        drop: bool = False,
    ) -> None:
        if values is None and at_least is None and at_most is None:
            raise ValueError("select: nothing to select by; give values, at_least or at_most")
        if at_least is not None and at_most is not None and at_least > at_most:
            raise ValueError(f"select: at_least={at_least} is above at_most={at_most}; no row can be both")
        self.columns = (column,)
        self.values = list(values) if values is not None else None
        self.at_least = at_least
        self.at_most = at_most
        self.drop = drop

    def __call__(self, batch: "Batch") -> "Batch":
        """Return the rows that are wanted."""
        column = batch[self.columns[0]]
        wanted = np.ones(len(column), dtype=bool)
        if self.values is not None:
            wanted &= np.array([value in self.values for value in column.tolist()], dtype=bool)
        if self.at_least is not None:
            wanted &= column >= self.at_least
        if self.at_most is not None:
            wanted &= column <= self.at_most
        return {name: values[wanted != self.drop] for name, values in batch.items()}
