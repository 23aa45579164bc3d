"""Feature density: how many of a corpus' features are different ones.

    density = distinct features / features        in (0, 1]

Near 0: few features that come again and again; near 1: hardly one comes twice. It falls with the size of the
corpus (Heaps' law), so preprocessings are compared on the same texts only.

The sketch keeps, for each of m = 2^14 registers, the highest position of the first one in the remaining
q = 50 bits of a hash. With C_k registers that hold k:

    distinct = m^2 / (2 ln 2 (m s(C_0 / m) + sum_{k=1..q} 2^-k C_k + 2^-q m t(1 - C_{q+1} / m)))
    s(x) = x + sum_{k>=1} x^(2^k) 2^(k-1),   t(x) = (1 - x - sum_{k>=1} (1 - x^(2^-k))^2 2^-k) / 3

which has no bias for few features either; standard error 1.04 / sqrt(m).

Reference: J. Eronen, M. Ptaszynski, F. Masui, A. Smywiński-Pohl, G. Leliwa, M. Wroczynski, "Improving
    Classifier Training Efficiency for Automatic Cyberbullying Detection with Feature Density", IPM 2021,
    https://arxiv.org/abs/2111.01689; O. Ertl, "New cardinality estimation algorithms for HyperLogLog
    sketches", 2017, https://arxiv.org/abs/1702.01284
Cost: O(features); memory O(distinct features), or m bytes with the sketch.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from ray_app.methods._linguistic import Linguistic
from ray_app.methods.diagnostics import Diagnostic

_BITS = 14


class FeatureDensity(Diagnostic):
    """Says before any training which preprocessings of a corpus are worth trying.

    Streams: `update` with parts of a corpus anywhere, `merge`, then `value`.

    Args:
        approximate: Count distinct features with a sketch of 2^14 bytes, to about 0.8 %.
    """

    def __init__(self, *, approximate: bool = False) -> None:
        self.approximate = approximate
        self.total = 0
        """Features so far, each as often as it occurs."""
        self._seen: set[str] = set()
        self._registers = np.zeros(2**_BITS, dtype=np.uint8)

    @property
    def distinct(self) -> float:
        """Different features so far; an estimate with the sketch."""
        return _estimate(self._registers) if self.approximate else float(len(self._seen))

    def update(self, rows: Iterable[Sequence[str]]) -> Self:
        """Count the features of more rows.

        Args:
            rows: A list of features for each row.
        """
        for features in rows:
            self.total += len(features)
            if self.approximate:
                self._sketch(features)
            else:
                self._seen.update(features)
        return self

    def merge(self, other: Self) -> Self:
        """Count what another counted; equals one pass over the rows of both.

        Raises:
            ValueError: One of them keeps a sketch and the other does not.
        """
        if self.approximate != other.approximate:
            raise ValueError("feature_density: one of the two is approximate; make both so, or neither")
        self.total += other.total
        self._seen |= other._seen
        self._registers = np.maximum(self._registers, other._registers)
        return self

    def value(self) -> float:
        """Return the density; NaN where there was no feature."""
        # The estimate may be above what there is.
        return min(self.distinct / self.total, 1.0) if self.total else float("nan")

    def report(
        self, texts: Sequence[str], preprocessings: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, list[str] | list[float]]:
        """Return a table: columns `name`, `distinct`, `total` and `density`, a row for each preprocessing.

        Args:
            texts: Of the training rows only.
            preprocessings: Name → options: `unit`, `stop`, `alpha`, `lower`, `n`.

        Raises:
            ValueError: An option is unknown or wrong.
        """
        counts = []
        for options in preprocessings.values():
            linguistic = Linguistic(**options)
            each = type(self)(approximate=self.approximate)
            counts.append(each.update(linguistic.features(text) for text in texts))
        return {
            "name": list(preprocessings),
            "distinct": [one.distinct for one in counts],
            "total": [float(one.total) for one in counts],
            "density": [one.value() for one in counts],
        }

    def _sketch(self, features: Sequence[str]) -> None:
        if not features:
            return
        digests = [
            hashlib.blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            for feature in set(features)
        ]
        hashes = np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
        rest = (hashes << np.uint64(_BITS)) >> np.uint64(_BITS)
        # frexp's exponent is the number of bits that are left, exactly for numbers below 2^53.
        rank = 64 - _BITS - np.frexp(rest.astype(np.float64))[1] + 1
        np.maximum.at(
            self._registers, (hashes >> np.uint64(64 - _BITS)).astype(np.int64), rank.astype(np.uint8)
        )


def _estimate(registers: np.ndarray) -> float:
    m, q = len(registers), 64 - _BITS
    count = np.bincount(registers, minlength=q + 2).astype(np.float64)
    if count[0] == m:
        return 0.0
    halves = 2.0 ** -np.arange(1, q + 1)
    z = m * _sigma(count[0] / m) + float(halves @ count[1 : q + 1]) + halves[-1] * m * _tau(1 - count[-1] / m)
    return m**2 / (2 * float(np.log(2)) * z)


def _sigma(x: float) -> float:
    total, power, weight = x, x, 1.0
    while power > 0:
        power *= power
        total, before, weight = total + power * weight, total, 2 * weight
        if total == before:
            break
    return total


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    total, root, weight = 1 - x, x, 1.0
    while True:
        root, weight = root**0.5, weight / 2
        before, total = total, total - (1 - root) ** 2 * weight
        if total == before:
            return total / 3
