"""Rows to features: an encoder on its device, in batches that fit it, with bad rows set aside."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from ray_app import bundle as bundles
from ray_app import registry
from ray_app.data.arrow import concat, length, take
from ray_app.data.rows import reject
from ray_app.data.sources import Read
from ray_app.errors import DataError
from ray_app.methods.encoders import Encoder, Features, Inputs, Want
from ray_app.predictor import joined, load_member
from ray_app.spec import Method

if TYPE_CHECKING:
    from ray_app.methods import Batch

# What torch says, beside its own exception class, when a device or the machine has no memory left.
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


class Encoding:
    """An encoder, ready to turn batches into features.

    Args:
        encoder: In eval mode after this.
        batch_size: Rows at once; halved for good where they do not fit.
        device: Where it computes.
        want: What features hold beside the pooled ones.
        gradients: Whether somebody will ask for gradients with respect to the inputs.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        batch_size: int = 256,
        device: str = "cpu",
        want: Collection[Want] = (),
        gradients: bool = False,
    ) -> None:
        self.encoder = encoder.requires_grad_(requires_grad=False).eval().to(device)
        self.batch_size = batch_size
        self.device = device
        self.want = tuple(want)
        self.gradients = gradients

    def each(self, read: Read, use: "Callable[[Features, Batch], Mapping[str, np.ndarray]]") -> Read:
        """Encode rows and add the columns that `use` makes of their features.

        Args:
            read: Rows; those that the encoder cannot read are rejected.
            use: Is given features on the device and the rows that they are of, a batch at a time.

        Raises:
            DataError: The encoder's column is missing, or one row alone does not fit the device.
        """
        if self.encoder.column not in read.batch:
            raise DataError(
                f"the encoder reads the column {self.encoder.column!r}, which is not there"
                f" (columns: {', '.join(read.batch)}); map it with `columns:`"
            )
        parts: list[Batch] = []
        start, rows = 0, length(read.batch)
        rejected = list(read.rejected)
        while start < rows:
            part = Read(take(read.batch, slice(start, start + self.batch_size)))
            try:
                part = self._part(part, use)
            except (RuntimeError, MemoryError) as error:
                self._halve(error, part)
                continue
            rejected += part.rejected
            parts += [part.batch] if length(part.batch) else []
            start += self.batch_size
        return Read(concat(parts) if parts else take(read.batch, slice(0)), rejected)

    def _part(self, read: Read, use: "Callable[[Features, Batch], Mapping[str, np.ndarray]]") -> Read:
        read, inputs = self._inputs(read)
        if inputs is None:
            return read
        moved = inputs.to(self.device) if isinstance(inputs, torch.Tensor) else _moved(inputs, self.device)
        with self._mode(), _as_data_error():
            features = self.encoder(moved, self.want)
            finite = torch.isfinite(features.pooled).all(1)
            if not bool(finite.all()):
                bad = {int(row): "its embedding is not finite" for row in torch.nonzero(~finite)[:, 0]}
                read, features = reject(read, bad), features[finite]
            if not length(read.batch):
                return read
            return Read({**read.batch, **use(features, read.batch)}, read.rejected)

    def _inputs(self, read: Read) -> tuple[Read, Inputs | None]:
        try:
            return read, self.encoder.preprocess(read.batch)
        except ValueError:
            # One row spoils the batch; which one, only trying them alone tells.
            reasons: dict[int, str] = {}
            for row in range(length(read.batch)):
                try:
                    self.encoder.preprocess(take(read.batch, slice(row, row + 1)))
                except ValueError as error:
                    reasons[row] = str(error).removeprefix("row 0: ")
            if not reasons:
                raise
        read = reject(read, reasons)
        return read, self.encoder.preprocess(read.batch) if length(read.batch) else None

    def _mode(self) -> AbstractContextManager[None]:
        # Inference tensors can never take part in a gradient again: who needs one gets plain tensors.
        return cast(
            AbstractContextManager[None], torch.no_grad() if self.gradients else torch.inference_mode()
        )

    def _halve(self, error: BaseException, part: Read) -> None:
        rows = length(part.batch)
        if not is_out_of_memory(error):
            raise error
        if rows <= 1:
            raise DataError(
                f"row {part.batch['row_id'][0]} alone does not fit {self.device};"
                " use smaller inputs or a larger device"
            ) from error
        self.batch_size = max(1, min(self.batch_size, rows) // 2)
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a device or the machine ran out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def make_encoder(encoder: Method | None, bundle: str | None) -> Encoder:
    """Construct an encoder from its method, or from a bundle's members.

    Raises:
        SpecError: The method is refused.
        BundleError: The bundle is.
    """
    if bundle is None:
        if encoder is None:
            raise DataError("no encoder: give `encoder` or `bundle`")
        return cast(Encoder, registry.build("encoders", encoder.name, encoder.options))
    loaded = bundles.load(Path(bundle))
    return joined({name: load_member(loaded, name) for name in loaded.manifest.members})


@contextmanager
def _as_data_error() -> Iterator[None]:
    """What an encoder or a detector says of rows that every batch would have (a layer it lacks, a width)."""
    try:
        yield
    except ValueError as error:
        raise DataError(str(error)) from error


def _moved(inputs: Mapping[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {key: value.to(device) for key, value in inputs.items()}
