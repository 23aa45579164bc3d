"""What papers share: splits of rows, and the way from a batch to training rows and features."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ray_app import registry
from ray_app.methods.encoders import Encoder, Features, Want
from ray_app.spec.train import Train
from ray_app.tune.start import fine_tune
from ray_app.tune.training import Rows

if TYPE_CHECKING:
    from ray_app.methods import Batch


@dataclass(frozen=True)
class Parts:
    """Batches with `image` and `label`: fit on train, choose on validation, report on test."""

    train: "Batch"
    validation: "Batch"
    test: "Batch"

    def only(self, classes: Sequence[int]) -> "Parts":
        """Return the rows of these classes, numbered anew in the order given."""
        return Parts(*(only(part, classes) for part in (self.train, self.validation, self.test)))


def only(batch: "Batch", classes: Sequence[int]) -> "Batch":
    """Return the rows of these classes, numbered anew in the order given."""
    number = np.full(int(max(batch["label"].max(), *classes)) + 1, -1, dtype=np.int64)
    number[list(classes)] = np.arange(len(classes))
    labels = number[batch["label"]]
    return {**choose(batch, labels >= 0), "label": labels[labels >= 0]}


def choose(batch: "Batch", rows: np.ndarray | slice) -> "Batch":
    """Return the chosen rows of every column."""
    return {name: column[rows] for name, column in batch.items()}


def rows_of(encoder: Encoder, batch: "Batch") -> Rows:
    """Return a batch as the encoder's training takes it; a batch without labels has class 0 throughout."""
    inputs = encoder.preprocess(batch)
    n = len(batch[encoder.column])
    # A file may hold them in fewer bytes.
    labels = np.array(batch["label"], dtype=np.int64) if "label" in batch else np.zeros(n, dtype=np.int64)
    return Rows(inputs, torch.from_numpy(labels))


def train_on(
    encoder: Encoder, batch: "Batch", settings: Mapping[str, Any], *, teacher: Encoder | None = None
) -> Encoder:
    """Train an encoder in place with the settings of a tune spec's `train`, and return it.

    Args:
        encoder: What trains.
        batch: Its rows.
        settings: What `ray_app.spec.train.Train` takes.
        teacher: For an objective that learns from one.
    """
    fine_tune(encoder, rows_of(encoder, batch), Train.model_validate(settings), teacher=teacher)
    return encoder


@torch.inference_mode()
def features_of(
    encoder: Encoder, batch: "Batch", want: Collection[Want] = (), batch_size: int = 512
) -> Features:
    """Return features of a batch, in eval mode."""
    encoder.eval()
    rows = rows_of(encoder, batch)
    starts = range(0, len(rows), batch_size)
    return Features.concat([encoder(rows[slice(s, s + batch_size)].inputs, want) for s in starts])


def small_net(
    *,
    num_classes: int,
    channels: int,
    image_size: int,
    seed: int,
    layers: Sequence[str] | None = None,
    output_stride: int = 32,
    widths: Sequence[int] | None = None,
) -> Encoder:
    """Return an untrained convolutional network of four stages that a single core trains in seconds.

    Args:
        num_classes: Width of its classifier.
        channels: 1 or 3.
        image_size: Height and width of its inputs.
        seed: Of its weights.
        layers: Modules to read as layers; None: the stages.
        output_stride: Pixels of the input for one of the last map, 8, 16 or 32.
        widths: Channels of its four stages; None: (32, 48, 48, 96).
    """
    options = {
        "model": "test_resnet",
        "num_classes": num_classes,
        "channels": channels,
        "image_size": image_size,
        "seed": seed,
        "layers": layers,
        "model_args": {"output_stride": output_stride, **({"channels": list(widths)} if widths else {})},
    }
    encoder: Encoder = registry.build("encoders", "timm", options)
    return encoder


def drawn(batch: "Batch", sizes: Sequence[int], seed: int) -> list["Batch"]:
    """Return disjoint random parts of a batch, of so many rows each.

    Raises:
        ValueError: There are fewer rows.
    """
    n = len(next(iter(batch.values())))
    if sum(sizes) > n:
        raise ValueError(f"drawn: parts of {list(sizes)} rows from {n}; ask for fewer")
    order = np.random.default_rng(seed).permutation(n)
    stops = np.cumsum(sizes)
    return [
        choose(batch, order[stop - size : stop]) for stop, size in zip(stops.tolist(), sizes, strict=True)
    ]


def without(classes: Collection[int], of: int) -> list[int]:
    """Return the classes 0..of-1 that are not among those given."""
    return [number for number in range(of) if number not in classes]
