"""Splits and samples drawn by hashes: the same on every machine, in every order, for every size of unit."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ray_app.data.arrow import objects
from ray_app.errors import DataError

if TYPE_CHECKING:
    from ray_app.methods import Batch

FILE = "file"
"""As a key: the file that a row was read from, unless there is a column of this name."""
# Sources name a row by its file and its place there; a transform that makes several of it appends /0, /1, ….
_WITHIN = re.compile(r"[#@][\d,]+(/\d+)*$")


@dataclass(frozen=True)
class Splits:
    """How rows are divided."""

    shares: Mapping[str, float] = field(default_factory=dict)
    """Split → its share of the rows (or of the keys); with `column` only the names count."""
    seed: int = 0
    """Of the draw."""
    key: str | None = None
    """Column by whose hash rows are drawn, so that equal values are on one side; or FILE. None: `row_id`."""
    column: str | None = None
    """Column whose value is the name of the row's split; nothing is drawn."""

    @property
    def needs(self) -> str | None:
        """The column, beside `row_id`, that it reads."""
        return self.column or self.key

    def mask(self, rows: "Batch | np.ndarray", split: str) -> np.ndarray:
        """Return bool [n]: the rows of one split. Each row is in exactly one, or in none of a column's.

        Args:
            rows: A batch, or its `row_id` alone where no other column is needed.
            split: One of those in `shares`.

        Raises:
            DataError: The column is missing.
        """
        batch = {"row_id": rows} if isinstance(rows, np.ndarray) else rows
        if self.column is not None:
            return np.array([str(value) == split for value in _column(batch, self.column)], dtype=bool)
        # By name: the order in which somebody wrote them down moves no row.
        names = sorted(self.shares)
        bounds = np.cumsum([self.shares[name] for name in names])
        # The last bound is 1 but for rounding, and no draw may fall behind it.
        drawn = np.searchsorted(bounds[:-1], _uniform(_keys(batch, self.key), self.seed), side="right")
        return drawn == names.index(split)


def sampled(rows: "Batch | np.ndarray", share: float, seed: int = 0, key: str | None = None) -> np.ndarray:
    """Return bool [n]: a share of the rows (or of the keys), whatever split they are in.

    A larger share contains every smaller one of the same seed; the draw knows nothing of that of the splits.

    Raises:
        DataError: The key's column is missing.
    """
    batch = {"row_id": rows} if isinstance(rows, np.ndarray) else rows
    return _uniform(_keys(batch, key), seed, b"sample") < share


def _keys(batch: "Batch", key: str | None) -> np.ndarray:
    if key is None:
        return batch["row_id"]
    if key == FILE and key not in batch:
        return objects([_WITHIN.sub("", str(row_id)) for row_id in batch["row_id"]])
    return _column(batch, key)


def _column(batch: "Batch", name: str) -> np.ndarray:
    if name not in batch:
        raise DataError(
            f"splits: no column {name!r} to divide the rows by (columns: {', '.join(batch)});"
            " map it with `columns:`"
        )
    return batch[name]


def _uniform(keys: np.ndarray, seed: int, purpose: bytes = b"") -> np.ndarray:
    """A number in [0, 1) for each key; 53 bits, as many as a float64 holds exactly."""
    secret = seed.to_bytes(8, "little", signed=False)
    hashes = [
        hashlib.blake2b(str(key).encode(), digest_size=8, key=secret, person=purpose).digest() for key in keys
    ]
    return (np.frombuffer(b"".join(hashes), dtype="<u8") >> np.uint64(11)) / 2.0**53
