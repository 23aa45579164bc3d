"""What selectors work on in a build: committed files, of each row one bit, and where the work is done."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np

from ray_app.data.arrow import length, take, to_batch
from ray_app.data.learned import FIELDS, columns_of
from ray_app.data.ledger import read_part
from ray_app.methods.selectors import Selector, View
from ray_app.storage import Place

if TYPE_CHECKING:
    from ray_app.methods import Batch

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

PARTS_AT_ONCE = 16
"""Parts that one task looks at."""


class Each(Protocol):
    """Where the work is done: in this process, or on a cluster."""

    def map(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """Return what a function makes of each item, in their order."""
        ...

    def shuffle(
        self, divide: Callable[[A], list[B]], items: Sequence[A], gather: Callable[[list[B]], C]
    ) -> Iterator[C]:
        """Divide each item into as many pieces, and return what comes of the first, second … of all."""
        ...


class Here:
    """Does it in this process."""

    def map(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """Return what a function makes of each item."""
        return map(function, items)

    def shuffle(
        self, divide: Callable[[A], list[B]], items: Sequence[A], gather: Callable[[list[B]], C]
    ) -> Iterator[C]:
        """Divide each item, and gather the pieces."""
        divided = [divide(item) for item in items]
        for pieces in zip(*divided, strict=True):
            yield gather(list(pieces))


@dataclass(frozen=True)
class Part:
    """A committed file of rows, and which of them are left."""

    unit: str
    place: Place
    rows: int
    bits: bytes
    """A bit for each row, packed."""

    @classmethod
    def whole(cls, unit: str, place: Place, rows: int) -> "Part":
        """Return a part of which nothing was dropped."""
        return cls(unit, place, rows, np.packbits(np.ones(rows, dtype=bool)).tobytes())

    @property
    def left(self) -> np.ndarray:
        """Bool [rows]."""
        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.rows).astype(bool)

    def keeping(self, chosen: np.ndarray) -> "Part":
        """Return it with only these rows: bool [n], of those that were left."""
        left = self.left
        left[left] = chosen
        return replace(self, bits=np.packbits(left).tobytes())

    def read(self, columns: Iterable[str]) -> "Batch":
        """Return these columns, and `row_id`, of the rows that are left."""
        table = read_part(self.place, {"row_id", *columns})
        return take(to_batch(table), self.left)


def view_of(batch: "Batch", selector: Selector) -> View:
    """What a selector may look at of some rows."""
    values: dict[str, Any] = {"row_ids": batch["row_id"]}
    if selector.by is not None:
        values["score"] = np.asarray(batch[selector.by], dtype=np.float64)
    if selector.column is not None:
        values["texts"] = batch[selector.column]
    for name, column in FIELDS.items():
        if name in selector.needs:
            values[name] = _softmax(batch[column]) if name == "proba" else batch[column]
    if selector.weight == "chars":
        values["costs"] = np.array([len(text or "") for text in batch["text"]], dtype=np.float64)
    elif selector.weight is not None:
        values["costs"] = np.asarray(batch[selector.weight], dtype=np.float64)
    if "content" in selector.needs:
        values["content"] = _content(batch)
    return View(**values)


def read_rows(part: Part, selector: Selector) -> "Batch":
    """Return what a selector reads of the rows that are left."""
    if "content" not in selector.needs:
        return part.read(columns_of(selector))
    return take(to_batch(read_part(part.place)), part.left)


def _content(batch: "Batch") -> np.ndarray:
    """uint64 [n, 2]: a hash of what each row holds, but for its name and what was computed of it."""
    names = sorted(name for name in batch if not name.startswith(("row_id", "score_", "embedding", "logits")))
    digests = []
    for row in range(length(batch)):
        state = hashlib.blake2b(digest_size=16)
        for name in names:
            value = batch[name][row]
            plain = value.tobytes() if isinstance(value, (np.ndarray, np.generic)) else repr(value).encode()
            state.update(f"{name} {type(value).__name__} {len(plain)} ".encode() + plain)
        digests.append(state.digest())
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64).reshape(-1, 2)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return cast(np.ndarray, exponentials / exponentials.sum(1, keepdims=True))


def grouped(parts: Sequence[Part]) -> list[list[tuple[int, Part]]]:
    """Return numbered parts, as many together as one task takes."""
    numbered = list(enumerate(parts))
    return [numbered[start : start + PARTS_AT_ONCE] for start in range(0, len(parts), PARTS_AT_ONCE)]


__all__ = ["PARTS_AT_ONCE", "Each", "Here", "Part", "grouped", "read_rows", "view_of"]
