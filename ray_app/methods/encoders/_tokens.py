"""From texts to token ids, apart from the network that reads them."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ray_app.methods.encoders import Inputs, Preparation

if TYPE_CHECKING:
    from ray_app.methods import Batch


class Tokens(Preparation):
    """Token ids of each text, the special ones included.

    Args:
        tokenizer: Of the transformers library.
        max_length: Most tokens that the network takes at once.
        long: What becomes of longer texts: cut off, or divided into windows.
        overlap: Tokens that two windows share.
    """

    column = "text"

    def __init__(
        self, tokenizer: Any, max_length: int, long: Literal["cut", "chunk"] = "cut", overlap: int = 0
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.long = long
        self.overlap = overlap
        # What a text of no tokens becomes: the special tokens alone, in front and behind.
        self.special = tokenizer("")["input_ids"]
        room = max_length - len(self.special)
        if long == "chunk" and not 0 <= overlap < room:
            raise ValueError(
                f"transformers: overlap must be 0..{room - 1}, less than a window of {room} tokens,"
                f" got {overlap!r}"
            )

    def prepare(self, batch: "Batch") -> "Batch":
        """Return the column `input_ids`: int32 [t] each; with `long: chunk`, all of a text's tokens.

        Raises:
            ValueError: The column is missing, or a row is no text.
        """
        if self.column not in batch:
            raise ValueError(
                f"no column {self.column!r} to encode (columns: {', '.join(batch)}); map it with `columns:`"
            )
        texts = batch[self.column].tolist()
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(
                    f"row {row}: {type(text).__name__} in the column {self.column!r}; expected text"
                )
        ids = np.empty(len(texts), dtype=object)
        if texts:
            found = self.tokenizer(
                texts,
                padding=False,
                truncation=self.long == "cut",
                max_length=self.max_length if self.long == "cut" else None,
                return_attention_mask=False,
                return_token_type_ids=False,
                # A text longer than the network takes is what windows are for.
                verbose=False,
            )["input_ids"]
            ids[:] = [np.asarray(one, dtype=np.int32) for one in found]
        return {"input_ids": ids}

    def lengths(self, prepared: "Batch") -> np.ndarray:
        """Return int64 [n]: tokens that the network reads of each row."""
        lengths = np.fromiter(map(len, prepared["input_ids"]), np.int64, len(prepared["input_ids"]))
        if self.long == "cut":
            return lengths
        windows = self._windows(lengths)
        return np.where(windows > 1, windows * self.max_length, lengths)

    def collate(self, prepared: "Batch") -> Inputs:
        """Return `input_ids` and `attention_mask`, int64 [n, t]; [n, w, t] where a text has w > 1 windows."""
        rows = [[ids] for ids in prepared["input_ids"]]
        if self.long == "chunk":
            rows = [self._divided(ids) for (ids,) in rows]
        windows = max((len(row) for row in rows), default=1)
        width = max((len(window) for row in rows for window in row), default=1)
        ids = np.full((len(rows), windows, max(1, width)), self.tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            for j, window in enumerate(row):
                ids[i, j, : len(window)] = window
                mask[i, j, : len(window)] = 1
        if windows == 1:
            ids, mask = ids[:, 0], mask[:, 0]
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def _windows(self, lengths: np.ndarray) -> np.ndarray:
        room = self.max_length - len(self.special)
        beyond = np.maximum(0, lengths - len(self.special) - room)
        return 1 + -(-beyond // (room - self.overlap))

    def _divided(self, ids: np.ndarray) -> list[np.ndarray]:
        if len(ids) <= self.max_length:
            return [ids]
        front, back = self._ends(ids)
        inner = ids[len(front) : len(ids) - len(back)]
        room = self.max_length - len(self.special)
        starts = range(0, max(1, len(inner) - self.overlap), room - self.overlap)
        return [np.concatenate([front, inner[start : start + room], back]) for start in starts]

    def _ends(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The special tokens before and after a text."""
        special = np.asarray(self.special, dtype=ids.dtype)
        front = next((k for k in range(len(special), -1, -1) if np.array_equal(ids[:k], special[:k])), 0)
        return special[:front], special[front:]
