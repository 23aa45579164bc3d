"""What text transforms share: one text at a time, each with its own source of chance."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app.methods.transforms import Transform

if TYPE_CHECKING:
    from ray_app.methods import Batch


class TextTransform(Transform):
    """Changes each text of a column by itself.

    Args:
        column: Which one.
    """

    columns: Sequence[str]  # type: ignore[misc]  # it depends on the options here

    def __init__(self, *, column: str = "text") -> None:
        self.columns = (column,)

    def __call__(self, batch: "Batch") -> "Batch":
        """Return a batch whose texts are changed.

        Raises:
            ValueError: A row has no text; the message names it.
        """
        column = self.columns[0]
        texts = np.empty(len(batch[column]), dtype=object)
        texts[:] = [
            self._change(text_of(value, row), row_name(batch, row)) for row, value in enumerate(batch[column])
        ]
        return {**batch, column: texts}

    @abstractmethod
    def _change(self, text: str, row_id: str) -> str:
        """Return the new text."""


def text_of(value: Any, row: int) -> str:
    """Return a row's text.

    Raises:
        ValueError: It is none; the message names the row.
    """
    if not isinstance(value, str):
        raise ValueError(f"row {row}: expected text, got {type(value).__name__}; is this the right column?")
    return value


def row_name(batch: "Batch", row: int) -> str:
    """Return a row's `row_id` or, without one, its number."""
    return str(batch["row_id"][row]) if "row_id" in batch else str(row)


def seeded(who: str, seed: int, row_id: str) -> np.random.Generator:
    """Return a row's own source of chance, the same on every machine."""
    digest = hashlib.blake2b(f"{who}\0{seed}\0{row_id}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
