"""Transforms turn rows into rows: clean, shorten, chunk, resize, corrupt, attack."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ray_app.methods import Batch


class Transform(ABC):
    """A batch to a batch. Columns that it does not name pass through; the input arrays are never written to.

    A random transform draws from a generator seeded by its own seed and the row's `row_id`, so a row becomes
    the same on every machine, in every batch and in every order.
    """

    columns: ClassVar[Sequence[str]]
    """The columns that it reads, checked before anything starts."""
    adds: Sequence[str] = ()
    """The columns that it makes beside those that come in."""
    multiplies: ClassVar[bool] = False
    """Whether one row may become several, which are called `<row_id>/<k>`, k from 0, and follow each other;
    columns that it does not name are repeated."""

    @abstractmethod
    def __call__(self, batch: "Batch") -> "Batch":
        """Return a new batch with the same columns and those it adds; it may have fewer rows.

        Raises:
            ValueError: A row cannot be transformed; the message names it.
        """
