"""Exact duplicates: of rows that hold the same, one stays.

    duplicates: equal 128-bit BLAKE2b hashes of a column's value

Text, bytes and arrays are hashed as they are; with `fold`, upper and lower case and any run of white space
count as equal. Two different values share a hash with a probability of about n^2 / 2^129.

Cost: O(bytes), 16 bytes a row; an engine needs one pass and a group-by.
"""

import hashlib
from typing import Any

import numpy as np

from ray_app.methods.selectors import DuplicateSelector, View


class ExactDuplicates(DuplicateSelector):
    """The first step of every cleaning: it is cheap, and copies do harm.

    Args:
        column: Whose values are compared; None: everything that the engine's content hash covers.
        fold: Compare texts without regard to case and white space.
        by: The column with the scores, of which the highest of equals stays; None: any one.
    """

    def __init__(self, *, column: str | None = "text", fold: bool = False, by: str | None = None) -> None:
        if fold and column is None:
            raise ValueError("exact_duplicates: fold=True needs a column of text; give column")
        self.column = column
        self.by = by
        self.fold = fold
        self.needs = frozenset({"content" if column is None else "texts"} | ({"score"} if by else set()))

    def signature(self, view: View) -> np.ndarray:
        """Return uint64 [n, 2]."""
        if self.column is None:
            return np.asarray(view.need("content", "exact_duplicates"), dtype=np.uint64)
        values = view.need("texts", "exact_duplicates")
        digests = [self._digest(value) for value in values]
        return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64).reshape(-1, 2)

    def keys(self, signature: np.ndarray) -> np.ndarray:
        """Return uint64 [n, 1]: half of the hash."""
        return signature[:, :1]

    def alike(self, signature: np.ndarray) -> np.ndarray:
        """Return each row with the one before it, where both halves agree."""
        order = np.lexsort(signature.T)
        same = (signature[order[1:]] == signature[order[:-1]]).all(1)
        return np.stack([order[:-1][same], order[1:][same]], axis=1).astype(np.int64)

    def _digest(self, value: Any) -> bytes:
        if isinstance(value, str):
            text = " ".join(value.casefold().split()) if self.fold else value
            content = b"t" + text.encode("utf-8", "surrogatepass")
        elif isinstance(value, np.ndarray) and value.dtype != object:
            content = f"a{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
        elif isinstance(value, (bytes, bytearray, memoryview)):
            content = b"b" + bytes(value)
        else:
            content = b"o" + repr(value).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(content, digest_size=16).digest()
