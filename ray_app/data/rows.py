"""What happens to every row between source and reader: pixels decoded, labels numbered, bad rows apart."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app.data.arrow import concat, objects, stacked, take
from ray_app.data.sources import Read, Rejected
from ray_app.errors import DataError
from ray_app.methods import _sounds
from ray_app.methods._images import decode

if TYPE_CHECKING:
    from ray_app.methods import Batch
    from ray_app.methods.transforms import Transform


def decoded(read: Read, *, images: bool = True) -> Read:
    """Turn encoded images into pixels uint8 [h, w, c], and sounds into waveforms float32 [t] with their rate.

    What is no image, or no sound, is rejected, and so is a `tensor` with NaN. Sounds are brought to the rate
    that the column `sample_rate` says, and keep their own where there is none or it says 0; whole numbers
    become floats in -1..1.

    Args:
        read: Its columns `image` and `audio` hold files, or what was decoded already.
        images: Whether images are; otherwise they stay the bytes of their files, for an encoder that decodes
            them at the size that it wants.
    """
    return _finite(_heard(_seen(read, whole=images)))


def numbered(read: Read, labels: Sequence[str], where: str) -> Read:
    """Turn labels into int64 class numbers; a row whose label is missing or unknown is rejected.

    Args:
        read: Its column `label` holds numbers, or names.
        labels: Class names; empty: unknown, any number from 0 on is good.
        where: How to call the dataset in an error.

    Raises:
        DataError: The labels are names and nobody said in which order.
    """
    column = read.batch.get("label")
    if column is None:
        return read
    if column.dtype == object and any(isinstance(value, str) for value in column) and not labels:
        raise DataError(f"{where}: the column 'label' holds text; list the class names in order in `labels:`")
    known = {name: number for number, name in enumerate(labels)}
    # As Python's own values, which look in a message as they do in a table.
    given = column.tolist()
    values = [known.get(value, value) if isinstance(value, str) else value for value in given]
    reasons = {row: reason for row, value in enumerate(values) if (reason := _refused(value, len(labels)))}
    numbers = [int(value) for row, value in enumerate(values) if row not in reasons]
    read = reject(read, reasons)
    return Read({**read.batch, "label": np.array(numbers, dtype=np.int64)}, read.rejected)


def renamed(read: Read, columns: dict[str, str], where: str) -> Read:
    """Give the source's columns our names.

    Raises:
        DataError: The source lacks one.
    """
    batch = dict(read.batch)
    for ours, theirs in columns.items():
        if theirs not in read.batch:
            raise DataError(
                f"{where}: `columns` maps {ours!r} to {theirs!r}, which the source lacks"
                f" (columns: {', '.join(read.batch)})"
            )
    for theirs in set(columns.values()) - set(columns):
        batch.pop(theirs)
    return Read({**batch, **{ours: read.batch[theirs] for ours, theirs in columns.items()}}, read.rejected)


def transformed(read: Read, transforms: "Sequence[tuple[str, Transform]]", where: str) -> Read:
    """Apply transforms in order. Where one refuses a batch, its rows are tried alone, the bad ones rejected.

    Raises:
        DataError: A column that a transform reads is missing.
    """
    for name, transform in transforms:
        if len(read.batch["row_id"]) == 0:
            return read
        if missing := [column for column in transform.columns if column not in read.batch]:
            raise DataError(
                f"{where}: transforms/{name} reads the column {missing[0]!r}, which is not there"
                f" (columns: {', '.join(read.batch)}); map it with `columns:`"
            )
        try:
            read = Read(transform(read.batch), read.rejected)
        except ValueError:
            read = _one_by_one(read, name, transform)
    return read


def reject(read: Read, reasons: dict[int, str]) -> Read:
    """Set rows aside: row number → why."""
    if not reasons:
        return read
    bad = np.zeros(len(read.batch["row_id"]), dtype=bool)
    bad[list(reasons)] = True
    rejected = [Rejected(read.batch["row_id"][row], reasons[row]) for row in sorted(reasons)]
    return Read(take(read.batch, ~bad), [*read.rejected, *rejected])


def _one_by_one(read: Read, name: str, transform: "Transform") -> Read:
    good: list[Batch] = []
    rejected = list(read.rejected)
    for row in range(len(read.batch["row_id"])):
        single = take(read.batch, slice(row, row + 1))
        try:
            good.append(transform(single))
        except ValueError as error:
            rejected.append(Rejected(single["row_id"][0], f"transforms/{name}: {error}"))
    return Read(concat(good) if good else take(read.batch, slice(0)), rejected)


def _seen(read: Read, *, whole: bool) -> Read:
    column = read.batch.get("image")
    if column is None or column.dtype != object:
        return read
    reasons: dict[int, str] = {}
    pixels: list[Any] = []
    for row, value in enumerate(column):
        try:
            content = None if whole else _content(value)
            pixels.append(_pixels(value) if content is None else content)
        except ValueError as error:
            reasons[row] = str(error)
    read = reject(read, reasons)
    return Read({**read.batch, "image": stacked(pixels) if whole else objects(pixels)}, read.rejected)


def _heard(read: Read) -> Read:
    column = read.batch.get("audio")
    if column is None:
        return read
    rates = read.batch.get("sample_rate")
    reasons: dict[int, str] = {}
    heard: list[tuple[np.ndarray, int]] = []
    for row, value in enumerate(column):
        try:
            heard.append(_waveform(value, None if rates is None else rates[row]))
        except ValueError as error:
            reasons[row] = str(error)
    read = reject(read, reasons)
    batch = {**read.batch, "audio": objects([waveform for waveform, _ in heard])}
    if all(rate for _, rate in heard):
        batch["sample_rate"] = np.array([rate for _, rate in heard], dtype=np.int64)
    return Read(batch, read.rejected)


def _finite(read: Read) -> Read:
    """Reject tensors of which no model could make anything but NaN."""
    column = read.batch.get("tensor")
    if column is None or column.dtype.kind not in "fO":
        return read
    counts = {
        row: int(np.count_nonzero(~np.isfinite(value)))
        for row, value in enumerate(column)
        if isinstance(value, np.ndarray | np.floating) and value.dtype.kind == "f"
    }
    return reject(
        read, {row: f"tensor with {n} values that are NaN or infinite" for row, n in counts.items() if n}
    )


def _pixels(value: Any) -> np.ndarray:
    if (content := _content(value)) is not None:
        return decode(content)
    if value is None:
        raise ValueError("no image")
    pixels = np.asarray(value)
    if pixels.dtype == object or pixels.ndim not in (2, 3):
        raise ValueError(
            f"no image: {type(value).__name__}; expected encoded bytes, or pixels [h, w] or [h, w, c]"
        )
    if not pixels.size:
        raise ValueError(f"image without a pixel, of shape {pixels.shape}")
    return pixels


def _waveform(value: Any, rate: Any) -> tuple[np.ndarray, int]:
    """Samples and rate; 0: nobody says it."""
    if rate is not None and not (rate == rate and rate >= 0):
        raise ValueError(f"sample rate {rate!r}; expected a number of Hz, or 0 for the sound's own")
    if (content := _content(value)) is not None:
        return _sounds.decode(content, int(rate or 0) or None)
    if value is None:
        raise ValueError("no sound")
    samples = np.asarray(value)
    if samples.dtype == object or samples.dtype.kind == "U":
        raise ValueError(f"no sound: {type(value).__name__}; expected encoded bytes, or samples [t]")
    return _sounds.mono(samples), int(rate or 0)


def _content(value: Any) -> bytes | None:
    """The bytes of a file, also as Hugging Face's features hold them; None: it is something else."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return bytes(value["bytes"])
    return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else None


def _refused(value: Any, classes: int) -> str | None:
    if value is None or value != value:
        return "no label"
    if isinstance(value, str):
        return f"label {value!r} is none of the {classes} in `labels`"
    if not isinstance(value, (int, float)) or not -(2**63) <= value < 2**63 or int(value) != value:
        return f"label {value!r} is no class number"
    if value < 0 or (classes and value >= classes):
        return f"label {value} is none of the classes" + (f" 0..{classes - 1}" if classes else "")
    return None


__all__ = ["decoded", "numbered", "reject", "renamed", "transformed"]
