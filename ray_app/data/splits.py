"""Splits drawn by a hash of `row_id`: the same on every machine, in every order, for every size of unit."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Splits:
    """Shares of the rows, and the seed of the draw."""

    shares: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def mask(self, row_ids: np.ndarray, split: str) -> np.ndarray:
        """Return bool [n]: the rows of one split. Each row is in exactly one."""
        # By name: the order in which somebody wrote them down moves no row.
        names = sorted(self.shares)
        bounds = np.cumsum([self.shares[name] for name in names])
        # The last bound is 1 but for rounding, and no draw may fall behind it.
        drawn = np.searchsorted(bounds[:-1], _uniform(row_ids, self.seed), side="right")
        return drawn == names.index(split)


def _uniform(row_ids: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each row; 53 bits, as many as a float64 holds exactly."""
    key = seed.to_bytes(8, "little", signed=False)
    hashes = [hashlib.blake2b(str(row).encode(), digest_size=8, key=key).digest() for row in row_ids]
    return (np.frombuffer(b"".join(hashes), dtype="<u8") >> np.uint64(11)) / 2.0**53
