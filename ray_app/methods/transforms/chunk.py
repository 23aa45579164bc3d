"""Chunks: a long text becomes several rows that a model reads in full.

A chunk has at most `size` units. Where a border (of a sentence, a paragraph) lies in its second half, it ends
there, else after `size` units; the next one begins `overlap` units before that end. Together the chunks hold
every unit of the text.

Cost: O(characters).
"""

import re
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ray_app.methods._words import ModelTokens
from ray_app.methods.transforms import Transform
from ray_app.methods.transforms._text import row_name, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray_app.methods import Batch

_WORD = re.compile(r"\S+")
_BORDERS = {
    "sentence": re.compile(r"[.!?\u2026]+[\"'\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f]|\n\s*\n"),
    "paragraph": re.compile(r"\n\s*\n"),
}


class Chunk(Transform):
    """Keeps all of a long document, where truncation would keep its head.

    Adds `chunk_start` and `chunk_stop`, int64: where the chunk lies in the text, in characters.

    Args:
        size: The most units of a chunk.
        overlap: Units that a chunk shares with the one before.
        unit: `word` (between white space), `char`, or `token` of a model.
        border: `sentence` or `paragraph`, where a chunk rather ends; None: anywhere.
        tokenizer: A model's `tokenizer.json`, or its folder; for `unit: token`.
        column: The column with the texts.
    """

    columns: "Sequence[str]"  # type: ignore[misc]  # it depends on the options here
    adds = ("chunk_start", "chunk_stop")
    multiplies: ClassVar[bool] = True

    def __init__(
        self,
        *,
        size: int = 256,
        overlap: int = 0,
        unit: Literal["word", "char", "token"] = "word",
        border: Literal["sentence", "paragraph"] | None = "sentence",
        tokenizer: str | None = None,
        column: str = "text",
    ) -> None:
        if size < 1:
            raise ValueError(f"chunk: size must be >= 1, got {size!r}; try 256")
        # At half of the size the next chunk could begin where this one did.
        if not 0 <= overlap <= size // 2:
            raise ValueError(
                f"chunk: overlap must be in 0..size/2, got {overlap!r} of {size}; try {size // 8}"
            )
        if unit not in ("word", "char", "token"):
            raise ValueError(f"chunk: unit must be word, char or token, got {unit!r}")
        if border is not None and border not in _BORDERS:
            raise ValueError(f"chunk: border must be sentence, paragraph or nothing, got {border!r}")
        if (unit == "token") != (tokenizer is not None):
            raise ValueError(f"chunk: unit={unit!r} with tokenizer={tokenizer!r}; `unit: token` needs one")
        self.columns = (column, "row_id")
        self.size = size
        self.overlap = overlap
        self.unit = unit
        self._border = _BORDERS[border] if border is not None else None
        self._tokens = ModelTokens(tokenizer, "chunk") if tokenizer is not None else None

    def __call__(self, batch: "Batch") -> "Batch":
        """Return a row for each chunk; a text without units stays one row.

        Raises:
            ValueError: A row has no text; the message names it.
        """
        column = self.columns[0]
        parents: list[int] = []
        names: list[str] = []
        texts: list[str] = []
        spans: list[tuple[int, int]] = []
        for row, value in enumerate(batch[column]):
            text = text_of(value, row)
            found = self._spans(text)
            parents += [row] * len(found)
            names += [f"{row_name(batch, row)}/{k}" for k in range(len(found))]
            texts += [text[start:stop] for start, stop in found]
            spans += found
        repeated = {name: values[np.array(parents, dtype=np.int64)] for name, values in batch.items()}
        starts, stops = np.array(spans, dtype=np.int64).reshape(-1, 2).T
        return {
            **repeated,
            "row_id": _column(names),
            column: _column(texts),
            "chunk_start": starts.copy(),
            "chunk_stop": stops.copy(),
        }

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where the chunks of a text begin and end, in characters."""
        starts, stops = self._units(text)
        n = len(starts)
        if n <= self.size:
            return [(0, len(text))]
        ends = self._ends(text, starts)
        found: list[tuple[int, int]] = []
        first = 0
        while True:
            last = min(first + self.size, n)
            if last < n:
                # The second half, so that a chunk always goes beyond what it shares with the next.
                near = ends[(ends > first + self.size // 2) & (ends <= last)]
                last = int(near[-1]) if len(near) else last
            found.append((int(starts[first]), int(stops[last - 1])))
            if last == n:
                return found
            first = max(last - self.overlap, first + 1)

    def _units(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        if self.unit == "char":
            starts = np.arange(len(text))
            return starts, starts + 1
        spans = (
            self._tokens.spans(text)
            if self._tokens is not None
            else [match.span() for match in _WORD.finditer(text)]
        )
        starts, stops = np.array(spans, dtype=np.int64).reshape(-1, 2).T
        return starts, stops

    def _ends(self, text: str, starts: np.ndarray) -> np.ndarray:
        """Numbers of units after which a border lies, ascending."""
        if self._border is None:
            return np.zeros(0, dtype=np.int64)
        ends = np.array([match.end() for match in self._border.finditer(text)], dtype=np.int64)
        return np.searchsorted(starts, ends)


def _column(values: list[str]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
