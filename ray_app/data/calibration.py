"""How an encoder runs fastest here: dtype and batch sizes, tried on a few of the first rows.

One process of a build decides for all: the same dtype everywhere, also when the build is resumed.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ray_app.data.arrow import length, take
from ray_app.data.encoding import Encoding, Settings, is_out_of_memory
from ray_app.data.int8 import FILE as INT8
from ray_app.data.sources import Read
from ray_app.spec.dataset import Compute
from ray_app.storage import Place

if TYPE_CHECKING:
    from ray_app.methods import Batch
    from ray_app.methods.encoders import Features

FILE = "calibration.json"
LEAST_COSINE = 0.999
"""Of embeddings in bfloat16 with those in float32, each row's."""


@dataclass(frozen=True)
class _Sizes:
    rows: int
    """Of the sample, where all rows are alike."""
    tokens: int
    """Of the sample."""
    try_rows: tuple[int, ...]
    """Batch sizes to try; the dtype is chosen with the first."""
    try_tokens: tuple[int, ...]
    usual_rows: int
    usual_tokens: int


_CPU = _Sizes(32, 1536, (16, 64), (1024, 512), 256, 1024)
_GPU = _Sizes(1024, 131072, (256, 64, 1024), (32768, 8192, 131072), 256, 32768)
# A larger batch that is hardly faster is not worth its memory.
_GAIN = 1.02


@dataclass(frozen=True)
class Trial:
    """One setting and what came of it."""

    settings: Settings
    rows_per_s: float
    cosine: float | None = None
    """The least of any row's with float32, where the dtype is another."""


def usual(compute: Compute, device: str) -> Settings:
    """Return what is used where nothing is tried: what the spec says, float32, and sizes that mostly do."""
    sizes = _sizes(device)
    return Settings(
        batch_size=compute.batch_size or sizes.usual_rows,
        batch_tokens=compute.batch_tokens or sizes.usual_tokens,
        dtype="float32" if compute.dtype == "auto" else compute.dtype,
        compile=compute.compile,
    )


def is_open(compute: Compute) -> bool:
    """Tell whether the spec leaves something to be found out, or asks for what has a cost to be told."""
    return compute.dtype != "float32" or compute.batch_size is None or compute.batch_tokens is None


def calibrated(encoding: Encoding, batch: "Batch", compute: Compute, file: Place) -> Settings:
    """Let an encoding run as the build's first process found best; return the settings.

    Args:
        encoding: It runs with them from now on.
        batch: Rows to try on, prepared or not.
        compute: What the spec says; what it leaves open is tried.
        file: Where all processes of the build look, and the first one writes.
    """
    if compute.dtype == "int8":
        encoding.offer_int8(batch, file.parent / INT8)
    if not file.exists():
        trials = list(_tried(encoding, batch, compute))
        # A dtype that the spec asks for is used, whatever it costs; the cost is told.
        asked = [trial for trial in trials if compute.dtype in ("auto", trial.settings.dtype)]
        said = {
            "chosen": asdict(_best(asked, least=LEAST_COSINE if compute.dtype == "auto" else 0.0)),
            "trials": [asdict(trial) for trial in trials],
            "least_cosine": LEAST_COSINE,
        }
        file.write_first(json.dumps(said, indent=2).encode())
    settings = Settings(**json.loads(file.read_bytes())["chosen"])
    encoding.use_settings(settings)
    encoding.settle()
    encoding.take_spent()
    return settings


def _tried(encoding: Encoding, batch: "Batch", compute: Compute) -> Iterator[Trial]:
    usually = usual(compute, encoding.device)
    sizes = _sizes(encoding.device)
    read = encoding.prepared(Read(batch))
    lengths = encoding.lengths(read.batch)
    sample = take(read.batch, _sample(lengths, length(read.batch), sizes))
    if lengths is None:
        tried = sizes.try_rows if compute.batch_size is None else (compute.batch_size,)
        options = [replace(usually, batch_size=size) for size in tried]
    else:
        tried = sizes.try_tokens if compute.batch_tokens is None else (compute.batch_tokens,)
        options = [replace(usually, batch_tokens=size) for size in tried]
    first, exact = _timed(encoding, sample, replace(options[0], dtype="float32"))
    yield first
    dtype = "bfloat16" if compute.dtype == "auto" else compute.dtype
    if dtype != "float32" and (compute.dtype != "auto" or _may_round(encoding)):
        other, rounded = _timed(encoding, sample, replace(options[0], dtype=dtype))
        other = replace(other, cosine=_least_cosine(exact, rounded))
        yield other
        if compute.dtype != "auto" or _best([first, other]).dtype == dtype:
            options = [replace(option, dtype=dtype) for option in options]
    for option in options[1:]:
        yield _timed(encoding, sample, option)[0]


def _may_round(encoding: Encoding) -> bool:
    return encoding.encoder.low_precision and not encoding.gradients


def _sizes(device: str) -> _Sizes:
    return _GPU if device.startswith("cuda") else _CPU


def _sample(lengths: np.ndarray | None, rows: int, sizes: _Sizes) -> np.ndarray:
    """Rows, evenly from the short to the long ones, as many as make a trial short."""
    if lengths is None:
        return np.arange(min(rows, sizes.rows))
    order = np.argsort(lengths, kind="stable")
    count = max(1, min(rows, int(sizes.tokens / max(1.0, float(lengths.mean())))))
    return order[np.linspace(0, rows - 1, count).round().astype(np.int64)]


def _timed(encoding: Encoding, sample: "Batch", settings: Settings) -> tuple[Trial, dict[str, np.ndarray]]:
    """How fast the sample is with these settings, and its embeddings."""
    embeddings: dict[str, np.ndarray] = {}

    def use(features: "Features", batch: "Batch") -> dict[str, np.ndarray]:
        embeddings.update(zip(batch["row_id"], features.pooled.float().cpu().numpy(), strict=True))
        return {}

    try:
        encoding.use_settings(settings)
        # Kernels are chosen and memory is taken on the first batch.
        encoding.each(Read(take(sample, slice(-1, None))), use)
        begun = time.perf_counter()
        encoding.each(Read(sample), use)
        took = time.perf_counter() - begun
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error) or settings.dtype != "float32":
            return Trial(settings, 0.0), {}
        raise
    return Trial(settings, length(sample) / took), embeddings


def _least_cosine(exact: dict[str, np.ndarray], rounded: dict[str, np.ndarray]) -> float:
    """The least cosine of any row; 0 where a row has none."""
    if exact.keys() != rounded.keys():
        return 0.0
    a, b = (torch.from_numpy(np.stack([one[name] for name in exact])) for one in (exact, rounded))
    return float(torch.cosine_similarity(a, b, dim=1).min())


def _best(trials: list[Trial], least: float = LEAST_COSINE) -> Settings:
    good = [trial for trial in trials if trial.cosine is None or trial.cosine >= least] or trials
    best = good[0]
    for trial in good[1:]:
        if trial.rows_per_s > best.rows_per_s * _GAIN:
            best = trial
    return best.settings


__all__ = ["FILE", "LEAST_COSINE", "Trial", "calibrated", "is_open", "usual"]
