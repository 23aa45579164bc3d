"""Near duplicates: of texts that share most of their n-grams, one stays.

    J(a, b) = |A & B| / |A | B|            over the sets of n-grams, in [0, 1]
    m_i(a) = min over x in A of h_i(x)     i = 1..permutations;  P(m_i(a) = m_i(b)) = J(a, b)
    duplicates: share of i with m_i(a) = m_i(b) >= threshold

Only texts that agree in all r values of at least one of b bands are compared: 1 - (1 - J^r)^b of all pairs.
r is the largest that finds a pair at the threshold with probability >= `recall`, so that as few other pairs
as possible are looked at. The share's standard deviation is sqrt(J (1 - J) / permutations).

Reference: A. Broder, "On the Resemblance and Containment of Documents", SEQUENCES 1997; J. Leskovec,
    A. Rajaraman, J. Ullman, "Mining of Massive Datasets", chapter 3.
Cost: O(n-grams * permutations); 4 bytes a permutation and row; an engine needs one pass and a group-by.
"""

import re
import zlib
from typing import Literal

import numpy as np

from ray_app.methods.selectors import DuplicateSelector, View

_WORD = re.compile(r"\w+")
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_BASE = np.uint64(0x9E3779B97F4A7C15)
# Hash values at once: what bounds memory on a book.
_BLOCK = 2**13
# Rows of a group that are compared with all others at once.
_ROWS = 256


class NearDuplicates(DuplicateSelector):
    """Finds copies with small changes: boilerplate, quotations, other editions.

    Args:
        column: The column with the texts.
        threshold: Least share of common n-grams, in 0..1.
        ngram: Words or characters in a row that make one n-gram.
        unit: `word` (case does not matter), or `char` for text without spaces and for code.
        permutations: Hash functions: more are more exact and cost in proportion.
        recall: Least probability with which a pair at the threshold is looked at.
        by: The column with the scores, of which the highest of near duplicates stays; None: any one.
        seed: Of the hash functions.
    """

    def __init__(
        self,
        *,
        column: str = "text",
        threshold: float = 0.8,
        ngram: int = 3,
        unit: Literal["word", "char"] = "word",
        permutations: int = 128,
        recall: float = 0.95,
        by: str | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"near_duplicates: threshold must be in 0..1, above 0, got {threshold!r}")
        if ngram < 1 or permutations < 1:
            raise ValueError(
                f"near_duplicates: ngram and permutations must be >= 1, got {ngram!r} and {permutations!r}"
            )
        if unit not in ("word", "char"):
            raise ValueError(f"near_duplicates: unit must be word or char, got {unit!r}")
        if not 0 < recall < 1:
            raise ValueError(f"near_duplicates: recall must be between 0 and 1, got {recall!r}; try 0.95")
        self.column = column
        self.by = by
        self.threshold = threshold
        self.ngram = ngram
        self.unit = unit
        self.permutations = permutations
        self.needs = frozenset({"texts"} | ({"score"} if by else set()))
        self.bands, self.rows = _bands(threshold, permutations, recall)
        rng = np.random.default_rng(seed)
        self._factors = rng.integers(2**64, size=permutations, dtype=np.uint64) | np.uint64(1)
        self._shifts = rng.integers(2**64, size=permutations, dtype=np.uint64)

    def signature(self, view: View) -> np.ndarray:
        """Return uint32 [n, permutations]."""
        texts = view.need("texts", "near_duplicates")
        signature = np.full((len(texts), self.permutations), 2**32 - 1, dtype=np.uint32)
        for row, text in enumerate(texts.tolist()):
            grams = self._grams("" if text is None else str(text))
            for start in range(0, len(grams), _BLOCK):
                # The upper half of a product and a sum modulo 2^64 is as good as a random function.
                hashed = (grams[start : start + _BLOCK, None] * self._factors + self._shifts) >> np.uint64(32)
                signature[row] = np.minimum(signature[row], hashed.min(0).astype(np.uint32))
        return signature

    def keys(self, signature: np.ndarray) -> np.ndarray:
        """Return uint64 [n, bands]: a hash of each band's values."""
        used = signature[:, : self.bands * self.rows].astype(np.uint64)
        key = np.zeros((len(signature), self.bands), dtype=np.uint64)
        for values in np.moveaxis(used.reshape(len(signature), self.bands, self.rows), 2, 0):
            key = _mixed(key * _BASE + values + np.uint64(1))
        return key

    def alike(self, signature: np.ndarray) -> np.ndarray:
        """Return pairs that agree in at least the threshold's share of values."""
        # Copies are tied to the first of them; only what differs is compared all with all.
        _, first, kind = np.unique(signature, axis=0, return_index=True, return_inverse=True)
        kind = kind.reshape(-1)
        copies = np.flatnonzero(first[kind] != np.arange(len(signature)))
        found = [np.stack([first[kind[copies]], copies], axis=1)]
        different = signature[first]
        least = self.threshold * self.permutations - 1e-9
        for start in range(0, len(different), _ROWS):
            part = different[start : start + _ROWS]
            equal = np.zeros((len(part), len(different)), dtype=np.int32)
            for mine, theirs in zip(part.T, different.T, strict=True):
                equal += mine[:, None] == theirs
            a, b = np.nonzero(equal >= least)
            later = b > a + start
            found.append(np.stack([first[a[later] + start], first[b[later]]], axis=1))
        return np.concatenate(found).astype(np.int64)

    def _grams(self, text: str) -> np.ndarray:
        """Hashes uint64 of the text's n-grams, each once; of a shorter text, of all it has."""
        if self.unit == "char":
            units = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
        else:
            words = _WORD.findall(text.casefold())
            units = np.array(
                [zlib.crc32(w := word.encode()) << 32 | zlib.adler32(w) for word in words], dtype=np.uint64
            )
        if not len(units):
            return units
        n = min(self.ngram, len(units))
        grams = np.zeros(len(units) - n + 1, dtype=np.uint64)
        for place in range(n):
            grams = _mixed(grams * _BASE + units[place : place + len(grams)] + np.uint64(1))
        return np.unique(grams)


def _bands(threshold: float, permutations: int, recall: float) -> tuple[int, int]:
    """Return how many bands of how many values: the most values that keep the recall at the threshold."""
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= recall:
            return bands, rows
    return permutations, 1


def _mixed(values: np.ndarray) -> np.ndarray:
    # splitmix64's finaliser; integers wrap around.
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
