"""One piece of an evaluation: a bundle on a dataset with a seed, in a Ray worker, into one Parquet file."""

import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ray_app import bundle as bundles
from ray_app import registry
from ray_app.data.arrow import length
from ray_app.data.cache import Cache, folder_of
from ray_app.data.dataset import Dataset
from ray_app.data.encoding import Encoding, Settings
from ray_app.data.sources import Read
from ray_app.errors import DataError
from ray_app.predictor import Prediction, Predictor
from ray_app.spec import Method
from ray_app.spec.suite import Entry

if TYPE_CHECKING:
    from ray_app.methods import Batch

IMAGE = "image_pixels"
KEPT = ("row_id", "label", "proba")
ANSWERED = ("head/", "score/")
"""What the names of other columns of a piece begin with."""


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
    cache: str | None = None,
) -> Path:
    """Write what a bundle says of every row of a dataset: one Parquet row each.

    Columns: row_id; label (-1 where there is none); proba and head/<name> as lists; score/<detector>; for the
    most abnormal rows the pixels. The file's metadata holds the key, and the seconds of the forward passes
    (nan where all features were in the cache).

    Args:
        bundle: Its folder.
        dataset: What it is asked about.
        entry: Which rows, and what is done to them first.
        seed: Of random transforms.
        batch_size: Rows at once.
        examples: How many rows' pixels are kept.
        to: The file.
        key: What identifies the piece.
        cache: Folder with features of rows that were encoded before, see Compute.cache.

    Raises:
        DataError: The dataset has no rows, or one that the bundle cannot read.
    """
    predictor = _predictor(str(bundle), bundles.load(bundle).version)
    encoding = _encoding(predictor, batch_size, folder_of(cache))
    transforms = [_transform(method, seed, predictor) for method in entry.transforms]
    columns: dict[str, list[Any]] = {}
    pixels: list[np.ndarray] = []
    rows = 0
    for raw in _batches(dataset, entry, batch_size):
        batch = raw
        for transform in transforms:
            batch = transform(batch)
        read = encoding.prepared(Read(batch))
        answered = encoding.each(read, lambda features, some: _columns(some, predictor.judge(features)))
        if bad := answered.rejected:
            raise DataError(f"{entry.dataset}: {bad[0].row_id}: {bad[0].reason}; drop it, or mend it")
        rows += length(batch)
        for name in [name for name in answered.batch if name in KEPT or name.startswith(ANSWERED)]:
            columns.setdefault(name, []).extend(answered.batch[name].tolist())
        pixels += _pictures(read.batch.get("prepared.pixels"))
    spent = encoding.take_spent()
    seconds = spent["encode_s"] / spent["rows"] if spent["rows"] else math.nan
    if not rows:
        raise DataError(f"{entry.dataset}: no rows to evaluate; check its split, classes and limit")
    table = pa.table(columns)
    if pixels:
        table = table.append_column(IMAGE, _most_abnormal(table, pixels, examples))
    metadata = {"key": key, "seconds_per_row": f"{seconds:.9f}"}
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


def _encoding(predictor: Predictor, batch_size: int, folder: Path | None) -> Encoding:
    want = predictor.want()
    encoding = Encoding(
        predictor.encoder,
        Settings(batch_size=batch_size),
        device=str(predictor.device),
        want=want,
        # A detector that needs gradients enables them for itself.
        gradients=predictor.needs_gradients,
    )
    if folder is not None and want <= {"layers", "logits"}:
        encoding.cache = Cache(folder, predictor.encoder, encoding.settings.dtype, sorted(want))
    return encoding


def _columns(batch: "Batch", answer: Prediction) -> dict[str, np.ndarray]:
    n = len(answer.proba)
    labels = batch.get("label", np.full(n, -1))
    return {
        "row_id": batch["row_id"].astype(str),
        "label": np.asarray(labels, dtype=np.int64),
        "proba": answer.proba.cpu().numpy(),
        **{f"head/{name}": proba.cpu().numpy() for name, proba in answer.heads.items()},
        **{f"score/{name}": score.detach().cpu().numpy() for name, score in answer.scores.items()},
    }


def _pictures(pixels: np.ndarray | None) -> list[np.ndarray]:
    """Images uint8 [h, w, c] of pixels [n, c, h, w]; none where rows are no images."""
    if pixels is None:
        return []
    values = pixels if pixels.dtype == np.uint8 else (pixels * 255).round().clip(0, 255).astype(np.uint8)
    return list(values.transpose(0, 2, 3, 1))


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
