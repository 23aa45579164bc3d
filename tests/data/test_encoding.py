from typing import Any

import numpy as np
import pytest
import torch

from ray_app.data.encoding import Encoding, Settings, is_out_of_memory
from ray_app.data.sources import Read
from ray_app.errors import DataError
from ray_app.methods.encoders import Features


class Small(torch.nn.Module):
    """Takes so many rows at once; remembers how many it was given."""

    modality, column, dim, preparation = "tensor", "tensor", 2, None

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.fits = fits
        self.seen: list[int] = []

    def preprocess(self, batch: dict[str, np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(batch["tensor"].copy())

    def forward(self, inputs: torch.Tensor, want: Any = ()) -> Features:
        self.seen.append(len(inputs))
        if len(inputs) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return Features(pooled=inputs / inputs.sum(1, keepdim=True))


def rows(n: int) -> dict[str, np.ndarray]:
    values = np.arange(1, 2 * n + 1, dtype=np.float32).reshape(n, 2)
    return {"row_id": np.array([f"r{i}" for i in range(n)], dtype=object), "tensor": values}


def embed(features: Features, batch: Any) -> dict[str, np.ndarray]:
    return {"embedding": features.pooled.numpy()}


def test_a_batch_that_does_not_fit_is_halved_and_every_row_is_encoded_once() -> None:
    encoder = Small(fits=3)
    encoding = Encoding(encoder, Settings(batch_size=16))  # type: ignore[arg-type]
    read = encoding.each(Read(rows(10)), embed)
    assert read.batch["row_id"].tolist() == [f"r{i}" for i in range(10)]
    np.testing.assert_allclose(read.batch["embedding"].sum(1), 1)
    assert encoder.seen == [10, 5, 2, 2, 2, 2, 2]
    assert encoding.batch_size == 2


def test_a_row_that_does_not_fit_alone_is_named() -> None:
    with pytest.raises(DataError, match="row r0 alone does not fit cpu"):
        Encoding(Small(fits=0), Settings(batch_size=4)).each(Read(rows(3)), embed)  # type: ignore[arg-type]


def test_other_errors_are_not_taken_for_memory() -> None:
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
    )
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_row_whose_embedding_is_not_finite_is_set_aside() -> None:
    batch = rows(4)
    batch["tensor"][2] = 0
    read = Encoding(Small(fits=9)).each(Read(batch), embed)  # type: ignore[arg-type]
    assert read.batch["row_id"].tolist() == ["r0", "r1", "r3"]
    assert [(bad.row_id, bad.reason) for bad in read.rejected] == [("r2", "its embedding is not finite")]
