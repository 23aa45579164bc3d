"""CIFAR-10 from the reference folder: what papers run on at reference scale."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from ray_app.methods._images import decode
from ray_app.papers._rows import Parts, drawn
from ray_app.papers.run import reference_folder

if TYPE_CHECKING:
    from ray_app.methods import Batch

CLASSES = 10
SIZE = 32
TRAIN, VALIDATION, TEST = 10_000, 1000, 2000


def cifar10(seed: int, *, train: int = TRAIN, validation: int = VALIDATION, test: int = TEST) -> Parts:
    """Return `image` uint8 [n, 32, 32, 3] and `label`; the same seed draws the same rows.

    Args:
        seed: Of which rows are drawn.
        train: Rows to fit on, from the training file.
        validation: Rows to choose on, from the training file.
        test: Rows to report on, from the test file.

    Raises:
        RunError: The reference folder is not there.
    """
    fitted, chosen = drawn(_encoded("train"), [train, validation], seed)
    (reported,) = drawn(_encoded("test"), [test], seed)
    return Parts(*map(decoded, (fitted, chosen, reported)))


def images(path: str, rows: int, seed: int, column: str = "image") -> "Batch":
    """Return `image` uint8 [n, h, w, 3] of rows drawn from a file of equally large pictures.

    Args:
        path: Relative to the reference folder.
        rows: How many.
        seed: Of which rows are drawn.
        column: Which column holds the encoded pictures.
    """
    contents = pq.read_table(reference_folder() / path, columns=[column])[column].to_pylist()
    return decoded(drawn({"image": np.array(contents, dtype=object)}, [rows], seed)[0])


def decoded(batch: "Batch") -> "Batch":
    """Return a batch whose encoded images are colour pixels."""
    return {**batch, "image": np.stack([decode(content, "RGB") for content in batch["image"]])}


@cache
def _encoded(split: str) -> "Batch":
    table = pq.read_table(reference_folder() / "cifar10" / f"{split}.parquet", columns=["image", "label"])
    labels = table["label"].to_numpy().astype(np.int64)
    return {"image": np.array(table["image"].to_pylist(), dtype=object), "label": labels}
