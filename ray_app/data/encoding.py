"""Rows to features: an encoder on its device, in batches that fit it, with bad rows set aside.

Rows of like length are encoded together, so that little is padded; what comes out is in the order of what
came in.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ray_app import bundle as bundles
from ray_app import registry
from ray_app.data import int8
from ray_app.data.arrow import concat, length, take
from ray_app.data.prepared import prepared_columns
from ray_app.data.rows import reject
from ray_app.data.sources import Read
from ray_app.errors import DataError, SpecError
from ray_app.methods.encoders import Encoder, Features, Inputs, Want
from ray_app.predictor import joined, load_member
from ray_app.spec import Method
from ray_app.storage import Place

if TYPE_CHECKING:
    from ray_app.data.cache import Cache
    from ray_app.methods import Batch

Use = Callable[[Features, "Batch"], Mapping[str, np.ndarray]]

# What torch says, beside its own exception class, when a device or the machine has no memory left.
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
# So many batches without trouble, and a size that was halved is tried doubled again.
_GROW_AFTER = 32
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """How an encoder runs. It changes how fast features are made and, with the dtype, their last digits."""

    batch_size: int = 256
    """Most rows at once."""
    batch_tokens: int | None = None
    """Most tokens at once, the padding counted; None: no limit."""
    dtype: str = "float32"
    """Of weights and computation: float32, bfloat16 or int8. Features are float32 in any case."""
    compile: bool = False
    """Let torch.compile fuse the forward pass, on a GPU."""


@dataclass
class Spent:
    """What encoding took."""

    encode_s: float = 0.0
    collate_s: float = 0.0
    rows: int = 0
    batches: int = 0
    tokens: int = 0
    places: int = 0
    """Tokens and padding."""
    halved: int = 0
    cached: int = 0
    """Rows whose features were there already."""


class Encoding:
    """An encoder, ready to turn batches into features.

    Args:
        encoder: In eval mode after this.
        settings: Sizes are halved where they do not fit, and doubled again later.
        device: Where it computes.
        want: What features hold beside the pooled ones.
        gradients: Whether somebody will ask for gradients with respect to the inputs.
        cache: Where features of rows that were encoded before may be; None: nowhere.
    """

    def __init__(
        self,
        encoder: Encoder,
        settings: Settings | None = None,
        *,
        device: str = "cpu",
        want: Collection[Want] = (),
        gradients: bool = False,
        cache: "Cache | None" = None,
    ) -> None:
        self.encoder = encoder.requires_grad_(requires_grad=False).eval().to(device)
        if encoder.modality == "image":
            # The layout that convolutions compute in; other tensors keep theirs.
            self.encoder = self.encoder.to(memory_format=torch.channels_last)
        self.device = device
        self.want = tuple(want)
        self.gradients = gradients
        self.cache = cache
        self.spent = Spent()
        self.settings = Settings()
        self._exact: dict[str, torch.Tensor] | None = None
        self._rounded: int8.Int8 | None = None
        self.use_settings(settings or Settings())

    def use_settings(self, settings: Settings) -> None:
        """Run with these from now on."""
        if settings.dtype != self.settings.dtype:
            self._convert(settings.dtype)
        if settings.compile and not self.settings.compile and self.device != "cpu":
            self.encoder.compile(dynamic=True)
        self.settings = settings
        self.batch_size = settings.batch_size
        self.batch_tokens = settings.batch_tokens
        self._good, self._grow_after = 0, _GROW_AFTER

    def offer_int8(self, batch: "Batch", file: Place) -> None:
        """Make the network in 8 bits available, as the first process of a build made it.

        Args:
            batch: Rows, prepared or not, from which the first process learns the ranges of activations.
            file: Where all processes of the build look.

        """
        if file.exists():
            content = file.read_bytes()
        else:
            some = take(self.prepared(Read(batch)).batch, slice(int8.EXAMPLES))
            examples = [self._inputs(Read(take(some, slice(i, i + 1))))[1] for i in range(length(some))]
            content = file.write_first(
                int8.quantized(self.encoder, [one for one in examples if one is not None])
            )
        self._rounded = int8.Int8(content, torch.get_num_threads())

    def settle(self) -> None:
        """Keep the weights of the present dtype only."""
        self._exact = None

    def each(self, read: Read, use: Use) -> Read:
        """Encode rows and add the columns that `use` makes of their features.

        Args:
            read: Rows, prepared already or not; those that the encoder cannot read are rejected.
            use: Is given features on the device and the rows that they are of, a batch at a time, the longest
                rows first.

        Raises:
            DataError: The encoder's column is missing, or one row alone does not fit the device.
        """
        read = self.prepared(read)
        if self.cache is not None and self.encoder.preparation is not None and length(read.batch):
            return self._through_cache(self.cache, read, use)
        return self._computed(read, use)

    def _through_cache(self, cache: "Cache", read: Read, use: Use) -> Read:
        keys = cache.keys(read.batch)
        by_row = dict(zip(read.batch["row_id"], keys, strict=True))

        def used(features: Features, batch: "Batch") -> Mapping[str, np.ndarray]:
            cache.put([by_row[name] for name in batch["row_id"]], features)
            return use(features, batch)

        known, features = cache.get(keys)
        if features is None:
            return self._computed(read, used)
        self.spent.cached += int(known.sum())
        there = take(read.batch, known)
        with self._mode(), _as_data_error():
            columns = use(features.to(self.device), prepared_columns(there, keep=False))
        found = {**prepared_columns(there, keep=False), **columns}
        rest = self._computed(Read(take(read.batch, ~known), read.rejected), used)
        if not length(rest.batch):
            return Read(found, rest.rejected)
        place = {name: row for row, name in enumerate(read.batch["row_id"])}
        whole = concat([found, rest.batch])
        order = np.argsort([place[name] for name in whole["row_id"]], kind="stable")
        return Read(take(whole, order), rest.rejected)

    def _computed(self, read: Read, use: Use) -> Read:
        rows = length(read.batch)
        lengths = self.lengths(read.batch)
        # Longest first: what does not fit the device shows at once.
        order = np.argsort(-lengths, kind="stable") if lengths is not None else np.arange(rows)
        places: list[np.ndarray] = []
        parts: list[Batch] = []
        rejected = list(read.rejected)
        start = 0
        while start < rows:
            chosen = order[start : start + self._fitting(lengths[order[start]] if lengths is not None else 1)]
            part = Read(take(read.batch, chosen))
            begun = time.perf_counter()
            try:
                good, used = self._part(part, use)
            except (RuntimeError, MemoryError) as error:
                self._halve(error, part)
                continue
            self._count(part, lengths[chosen] if lengths is not None else None, begun)
            rejected += used.rejected
            if length(used.batch):
                parts.append(used.batch)
                places.append(chosen[good])
            start += len(chosen)
        if not parts:
            return Read(prepared_columns(take(read.batch, slice(0)), keep=False), rejected)
        back = np.argsort(np.concatenate(places), kind="stable")
        return Read(take(prepared_columns(concat(parts), keep=False), back), rejected)

    def prepared(self, read: Read) -> Read:
        """Return rows with what the encoder reads of them beside them; one that cannot be read is rejected.

        Raises:
            DataError: The encoder's column is missing.
        """
        if any(name.startswith("prepared.") for name in read.batch):
            return read
        if self.encoder.column not in read.batch:
            raise DataError(
                f"the encoder reads the column {self.encoder.column!r}, which is not there"
                f" (columns: {', '.join(read.batch)}); map it with `columns:`"
            )
        if self.encoder.preparation is None:
            return read
        from ray_app.data.prepared import prepare

        return prepare(read, self.encoder.preparation)

    def lengths(self, batch: "Batch") -> np.ndarray | None:
        """Return int64 [n]: tokens of prepared rows; None where all are alike."""
        if self.encoder.preparation is None or not length(batch):
            return None
        return self.encoder.preparation.lengths(prepared_columns(batch, keep=True))

    def _convert(self, dtype: str) -> None:
        if dtype == "int8":
            if self._rounded is None:
                raise SpecError("dtype: int8 is made from a build's first rows; use float32 or bfloat16 here")
            cast(Any, self.encoder).net = self._rounded
            self._exact = None
            return
        # What was rounded is not exact again when it is widened, so the exact weights are kept meanwhile.
        tensors = {**dict(self.encoder.named_parameters()), **dict(self.encoder.named_buffers())}
        if dtype == "float32" and self._exact is not None:
            for name, exact in self._exact.items():
                tensors[name].data = exact
            return
        self._exact = {name: tensor.data for name, tensor in tensors.items()}
        self.encoder.to(_DTYPES[dtype])

    def _fitting(self, longest: int) -> int:
        """How many rows go together, of which the first is the longest."""
        if self.batch_tokens is None:
            return self.batch_size
        return max(1, min(self.batch_size, self.batch_tokens // max(1, int(longest))))

    def _part(self, read: Read, use: Use) -> tuple[np.ndarray, Read]:
        """Rows with their new columns, and which of the given ones they are."""
        good = np.arange(length(read.batch))
        begun = time.perf_counter()
        kept, inputs = self._inputs(read)
        if len(kept.rejected):
            good = np.flatnonzero(np.isin(read.batch["row_id"], kept.batch["row_id"]))
        self.spent.collate_s += time.perf_counter() - begun
        if inputs is None:
            return good, kept
        with self._mode(), _as_data_error():
            features = self.encoder(self._moved(inputs), self.want)
            finite = torch.isfinite(features.pooled).all(1)
            if not bool(finite.all()):
                bad = {int(row): "its embedding is not finite" for row in torch.nonzero(~finite)[:, 0]}
                kept, features = reject(kept, bad), features[finite]
                good = good[finite.cpu().numpy()]
            if not length(kept.batch):
                return good, kept
            return good, Read({**kept.batch, **use(features, kept.batch)}, kept.rejected)

    def _inputs(self, read: Read) -> tuple[Read, Inputs | None]:
        if self.encoder.preparation is not None:
            return read, self.encoder.preparation.collate(prepared_columns(read.batch, keep=True))
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

    def _moved(self, inputs: Inputs) -> Inputs:
        """Inputs on the device; to a GPU from pinned memory, so that the copy waits for nobody."""
        if not isinstance(inputs, torch.Tensor):
            return {key: cast(torch.Tensor, self._moved(value)) for key, value in inputs.items()}
        if not self.device.startswith("cuda"):
            return inputs
        return inputs.pin_memory().to(self.device, non_blocking=True)

    def _mode(self) -> AbstractContextManager[None]:
        # Inference tensors can never take part in a gradient again: who needs one gets plain tensors.
        return cast(
            AbstractContextManager[None], torch.no_grad() if self.gradients else torch.inference_mode()
        )

    def _count(self, part: Read, lengths: np.ndarray | None, begun: float) -> None:
        rows = length(part.batch)
        spent = self.spent
        spent.encode_s += time.perf_counter() - begun
        spent.rows += rows
        spent.batches += 1
        if lengths is not None:
            spent.tokens += int(lengths.sum())
            spent.places += int(lengths.max(initial=0)) * rows
        full = (self.settings.batch_size, self.settings.batch_tokens)
        if (self.batch_size, self.batch_tokens) == full:
            return
        self._good += 1
        if self._good >= self._grow_after:
            self._good = 0
            self.batch_size = min(self.settings.batch_size, 2 * self.batch_size)
            if self.batch_tokens is not None and self.settings.batch_tokens is not None:
                self.batch_tokens = min(self.settings.batch_tokens, 2 * self.batch_tokens)

    def _halve(self, error: BaseException, part: Read) -> None:
        rows = length(part.batch)
        if not is_out_of_memory(error):
            raise error
        if rows <= 1:
            raise DataError(
                f"row {part.batch['row_id'][0]} alone does not fit {self.device};"
                " use smaller inputs or a larger device"
            ) from error
        if self.batch_tokens is not None:
            self.batch_tokens = max(1, self.batch_tokens // 2)
        self.batch_size = max(1, min(self.batch_size, rows) // 2)
        self.spent.halved += 1
        # A size that failed after it was grown is not tried again soon.
        self._good, self._grow_after = 0, self._grow_after * 2
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def take_spent(self) -> dict[str, float]:
        """Return what encoding took since it was last asked."""
        spent, self.spent = self.spent, Spent()
        return {name: float(value) for name, value in vars(spent).items()}


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


__all__ = ["Encoding", "Settings", "is_out_of_memory", "make_encoder"]
