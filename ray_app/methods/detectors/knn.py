"""KNN: the distance to the k-th nearest training row.

    z = f(x) / ||f(x)||                       or f(x) itself
    score(x) = || z - z_(k) ||_2              in [0, 2] when normalised, else in [0, inf) in the features'
    unit

z_(k): the k-th nearest of the rows in the bank (the farthest, where it holds fewer than k).

Reference: Y. Sun, Y. Ming, X. Zhu, Y. Li, "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML
    2022, https://arxiv.org/abs/2204.06507
Departure: a sampled bank keeps the rows whose hashed content is smallest, not a random draw: the same rows
    are kept in whatever order and parts they come, so that merging is exact. Equal rows are kept or left out
    together.
Cost: fit O(n d); score O(n m d) for m rows in the bank, one matrix product in blocks; state O(m d) float32.
"""

from typing import Self

import numpy as np
import torch
from torch import Tensor

from ray_app.errors import NotFittedError
from ray_app.methods._checks import finite, matrix, some
from ray_app.methods.detectors import Detector
from ray_app.methods.encoders import Features

# Bytes that the block of distances may take on an accelerator.
_BLOCK_BYTES = 256 * 2**20
_LEAST_LENGTH = 1e-12
_HASH_SEED = 20220414


class KNN(Detector):
    """Needs no labels and no shape of classes; finds what the classifier's boundaries let through.

    Args:
        k: Which neighbour counts: tens for thousands of rows, a few for hundreds.
        normalize: Compare directions (unit vectors), not lengths.
        sample: Most rows that the bank keeps; None: all.
    """

    bank: Tensor  # float32 [m, d]: training rows, normalised where asked for

    def __init__(self, *, k: int = 50, normalize: bool = True, sample: int | None = None) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"knn: k must be >= 1, got {k!r}; try 50, or 5 for small sets")
        if sample is not None and sample < 1:
            raise ValueError(f"knn: sample must be >= 1 rows, got {sample!r}; leave it out to keep all")
        self.k = k
        self.normalize = normalize
        self.sample = sample
        self.register_buffer("bank", torch.zeros(0, 0))

    def fit(self, features: Features, labels: Tensor | None = None) -> Self:
        """Forget, then keep features.pooled [n, d]; labels are ignored.

        Raises:
            ValueError: No rows, or rows that are not finite.
        """
        some(len(features), "knn")
        self.bank = self.bank[:0, :0]
        return self.partial_fit(features, labels)

    def partial_fit(self, features: Features, labels: Tensor | None = None) -> Self:
        """Keep more rows; no rows (n = 0) change nothing.

        Raises:
            ValueError: Rows that are not finite, or of another width.
        """
        if len(features) == 0:
            return self
        return self._add(self._prepared(finite(matrix(features.pooled.detach(), "knn", self._width), "knn")))

    def merge(self, other: Self) -> Self:
        """Keep what `other` kept; equals one fit on both sets of rows.

        Raises:
            ValueError: Its rows have another width.
        """
        return self._add(matrix(other.bank, "knn", self._width)) if len(other.bank) else self

    def score(self, features: Features) -> Tensor:
        """Return float32 [n], higher is more abnormal, for features.pooled [n, d].

        Raises:
            NotFittedError: The bank is empty.
            ValueError: The features' width is not the bank's.
        """
        if not len(self.bank):
            raise NotFittedError("knn: nothing learned yet; call fit() or load a bundle")
        x = self._prepared(matrix(features.pooled, "knn", self._width))
        if not len(x):
            return x.new_zeros(0)
        origin, bank = self.derive("centred", self._centred)
        centred = x - origin
        with torch.no_grad():
            k = min(self.k, len(bank))
            row = (
                _kth_by_faiss(centred, bank, k)
                if bank.device.type == "cpu"
                else _kth_by_torch(centred, bank, k)
            )
        # Products cancel where the neighbour is near: its distance comes from the difference itself.
        return torch.linalg.vector_norm(centred - bank[row], dim=1)

    @property
    def _width(self) -> int:
        return self.bank.shape[1]

    def _prepared(self, x: Tensor) -> Tensor:
        x = x.float()
        if not self.normalize:
            return x
        return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=_LEAST_LENGTH)

    def _centred(self) -> tuple[Tensor, Tensor]:
        # Unit vectors are near zero already; others may lie far from it, where products lose their digits.
        if self.normalize:
            return self.bank.new_zeros(self._width), self.bank.clone()
        origin = self.bank.double().mean(0).float()
        return origin, self.bank - origin

    def _add(self, rows: Tensor) -> Self:
        rows = rows.to(self.bank.device)
        bank = torch.cat([self.bank, rows]) if len(self.bank) else rows.clone()
        if self.sample is not None and len(bank) > self.sample:
            bank = bank[_priorities(bank).argsort(stable=True)[: self.sample]]
        self.bank = bank
        return self


def _kth_by_faiss(x: Tensor, bank: Tensor, k: int) -> Tensor:
    import faiss

    queries = np.ascontiguousarray(x.detach().numpy())
    _, rows = faiss.knn(queries, bank.numpy(), k)
    return torch.from_numpy(rows[:, -1].copy())


def _kth_by_torch(x: Tensor, bank: Tensor, k: int) -> Tensor:
    squares = bank.square().sum(1)
    step = max(1, _BLOCK_BYTES // (4 * len(bank)))
    parts = [
        torch.addmm(squares, part, bank.T, alpha=-2).topk(k, largest=False).indices[:, -1]
        for part in torch.split(x, step)
    ]
    return torch.cat(parts)


def _priorities(rows: Tensor) -> Tensor:
    """Return int64 [n]: a hash of each row's bytes, the same on every machine."""
    # Multilinear hashing over the 32-bit words, then a finaliser (splitmix64's); integers wrap around.
    words = rows.detach().cpu().contiguous().numpy().view(np.uint32).astype(np.uint64)
    odd = np.random.default_rng(_HASH_SEED).integers(2**64, size=words.shape[1], dtype=np.uint64) | np.uint64(
        1
    )
    mixed = words @ odd
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return torch.from_numpy((mixed >> np.uint64(1)).astype(np.int64)).to(rows.device)
