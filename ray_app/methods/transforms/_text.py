"""What text transforms share: one text at a time, its words, and model tokens where a tokenizer is given."""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app.methods.transforms import Transform

if TYPE_CHECKING:
    from ray_app.methods import Batch

# Words, with apostrophes inside them, and single marks.
TOKEN = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")


class TextTransform(Transform):
    """Changes each text of a column by itself.

    Args:
        column: Which one.
    """

    columns: Sequence[str]  # type: ignore[misc]  # it depends on the options here

    def __init__(self, *, column: str = "text") -> None:
        self.columns = (column,)

    def __call__(self, batch: "Batch") -> "Batch":
        """Return a batch whose texts are changed.

        Raises:
            ValueError: A row has no text; the message names it.
        """
        column = self.columns[0]
        texts = np.empty(len(batch[column]), dtype=object)
        texts[:] = [
            self._change(text_of(value, row), row_name(batch, row)) for row, value in enumerate(batch[column])
        ]
        return {**batch, column: texts}

    @abstractmethod
    def _change(self, text: str, row_id: str) -> str:
        """Return the new text."""


def text_of(value: Any, row: int) -> str:
    """Return a row's text.

    Raises:
        ValueError: It is none; the message names the row.
    """
    if not isinstance(value, str):
        raise ValueError(f"row {row}: expected text, got {type(value).__name__}; is this the right column?")
    return value


def row_name(batch: "Batch", row: int) -> str:
    """Return a row's `row_id` or, without one, its number."""
    return str(batch["row_id"][row]) if "row_id" in batch else str(row)


def seeded(who: str, seed: int, row_id: str) -> np.random.Generator:
    """Return a row's own source of chance, the same on every machine."""
    digest = hashlib.blake2b(f"{who}\0{seed}\0{row_id}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


class ModelTokens:
    """A model's tokens in a text, from its `tokenizer.json`.

    Args:
        path: The file, or the folder that holds it.
        who: The method's name, for errors.
    """

    def __init__(self, path: str, who: str) -> None:
        # Rust, without torch; only who counts model tokens needs it.
        from tokenizers import Tokenizer

        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        try:
            self._tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        # The library raises plain Exception where the content is wrong.
        except Exception as error:
            raise ValueError(
                f"{who}: tokenizer {path!r} cannot be read ({error}); give a tokenizer.json or its folder"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where each token begins and ends, in characters; special tokens are left out."""
        offsets: list[tuple[int, int]] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return offsets
