"""Small inputs for the data engine's tests."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ray_app.spec import parse
from ray_app.spec.dataset import DatasetSpec


def spec(**content: Any) -> DatasetSpec:
    """A checked spec."""
    return parse({"name": "rows", **content}, DatasetSpec, "test")


def digits(**content: Any) -> DatasetSpec:
    """scikit-learn's digits."""
    return spec(source={"name": "sklearn", "dataset": "digits"}, **content)


def images(
    folder: Path, count: int = 6, *, classes: tuple[str, ...] = ("cat", "dog"), size: int = 12
) -> Path:
    """PNG files in class folders; pixel (0, 0) of image i holds i."""
    for index in range(count):
        target = folder / classes[index % len(classes)] / f"{index:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (size, size, 3), dtype=np.uint8)
        pixels[0, 0] = index
        Image.fromarray(pixels).save(target)
    return folder


def table(path: Path, rows: int = 10, *, group: int = 4, **columns: Any) -> Path:
    """A Parquet file with a number, a label and a text in each row, in small row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "value": np.arange(rows, dtype=np.float32),
        "label": np.arange(rows) % 3,
        "text": [f"row {index}" for index in range(rows)],
        **columns,
    }
    pq.write_table(pa.table(content), path, row_group_size=group)
    return path


ENCODER = {"name": "timm", "model": "test_resnet", "channels": 1, "image_size": 32}
