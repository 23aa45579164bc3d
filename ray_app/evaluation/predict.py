"""One piece of an evaluation: a bundle on a dataset with a seed, in a Ray worker, into one Parquet file."""

import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ray_app import bundle as bundles
from ray_app import registry
from ray_app.data.dataset import Dataset
from ray_app.errors import DataError
from ray_app.methods.encoders import Inputs
from ray_app.predictor import Prediction, Predictor
from ray_app.spec import Method
from ray_app.spec.suite import Entry

if TYPE_CHECKING:
    from ray_app.methods import Batch

IMAGE = "image_pixels"


def predict_dataset(
    bundle: Path,
    dataset: Dataset,
    entry: Entry,
    seed: int,
    *,
    batch_size: int,
    examples: int,
    to: Path,
    key: str,
) -> Path:
    """Write what a bundle says of every row of a dataset: one Parquet row each.

    Columns: row_id; label (-1 where there is none); proba and head/<name> as lists; score/<detector>; for the
    most abnormal rows the pixels. The file's metadata holds the key, and the seconds of the forward passes.

    Raises:
        DataError: The dataset has no rows.
    """
    predictor = _predictor(str(bundle), bundles.load(bundle).version)
    transforms = [_transform(method, seed, predictor) for method in entry.transforms]
    columns: dict[str, list[Any]] = {}
    pixels: list[np.ndarray] = []
    seconds, rows = 0.0, 0
    for raw in _batches(dataset, entry, batch_size):
        batch = raw
        for transform in transforms:
            batch = transform(batch)
        inputs = predictor.preprocess(batch)
        begun = time.perf_counter()
        answer = _answer(predictor, inputs)
        seconds += time.perf_counter() - begun
        rows += len(answer.proba)
        for name, values in _columns(batch, answer).items():
            columns.setdefault(name, []).extend(values)
        if isinstance(inputs, torch.Tensor) and inputs.ndim == 4:
            pixels.extend(_pictures(inputs))
    if not rows:
        raise DataError(f"{entry.dataset}: no rows to evaluate; check its split, classes and limit")
    table = pa.table(columns)
    if pixels:
        table = table.append_column(IMAGE, _most_abnormal(table, pixels, examples))
    metadata = {"key": key, "seconds_per_row": f"{seconds / rows:.9f}"}
    to.parent.mkdir(parents=True, exist_ok=True)
    temporary = to.with_name(f".{to.name}")
    pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")
    return temporary.replace(to)


def key_of(path: Path) -> str | None:
    """Return the key that a written piece was made for; None where there is no whole file."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    return metadata.get(b"key", b"").decode()


@lru_cache(maxsize=2)
def _predictor(path: str, version: str) -> Predictor:
    # Ray keeps idle workers, so the next piece with the same bundle finds it loaded.
    return Predictor(bundles.load(path), "cuda" if torch.cuda.is_available() else "cpu")


def _transform(method: Method, seed: int, predictor: Predictor) -> Any:
    options = dict(method.options)
    if "seed" in registry.options("transforms", method.name):
        options["seed"] = int(options.get("seed", 0)) + seed
    return registry.build("transforms", method.name, options, model=predictor.encoder)


def _batches(dataset: Dataset, entry: Entry, batch_size: int) -> Any:
    left = entry.limit
    for batch in dataset.batches(entry.split, batch_size=batch_size):
        n = len(batch["row_id"])
        if left is not None:
            if left <= 0:
                return
            if n > left:
                yield {name: values[:left] for name, values in batch.items()}
                return
            left -= n
        yield batch


def _answer(predictor: Predictor, inputs: Inputs) -> Prediction:
    # A detector that needs gradients enables them for itself.
    with torch.no_grad():
        return predictor(inputs)


def _columns(batch: "Batch", answer: Prediction) -> dict[str, list[Any]]:
    labels = batch.get("label")
    n = len(answer.proba)
    return {
        "row_id": [str(row) for row in batch["row_id"]],
        "label": [int(label) for label in labels] if labels is not None else [-1] * n,
        "proba": answer.proba.cpu().tolist(),
        **{f"head/{name}": proba.cpu().tolist() for name, proba in answer.heads.items()},
        **{f"score/{name}": score.cpu().tolist() for name, score in answer.scores.items()},
    }


def _pictures(inputs: torch.Tensor) -> list[np.ndarray]:
    values = inputs if inputs.dtype == torch.uint8 else (inputs * 255).round().clamp(0, 255).to(torch.uint8)
    return list(values.permute(0, 2, 3, 1).cpu().numpy())


def _most_abnormal(table: pa.Table, pixels: list[np.ndarray], examples: int) -> pa.Array:
    """Keep the pictures of the rows with the highest scores, as PNG; the others are null."""
    import io

    from PIL import Image

    scores = next((name for name in table.column_names if name.startswith("score/")), None)
    order = np.argsort(-table[scores].to_numpy()) if scores else np.arange(len(pixels))
    kept: list[bytes | None] = [None] * len(pixels)
    for row in order[:examples]:
        image = pixels[row]
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
        kept[row] = buffer.getvalue()
    return pa.array(kept, pa.binary())
