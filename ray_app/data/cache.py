"""Features by content: a row that was encoded before, by whatever run, is looked up.

    key = hash(what the encoder reads of the row)      in one file for each encoder, its weights and settings

A file is an SQLite database on this machine's disk, which many processes may use at once. It is never the
only copy of anything: where it cannot be used, rows are encoded.
"""

import hashlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ray_app.data.arrow import length
from ray_app.data.prepared import prepared_columns
from ray_app.methods.encoders import Features

if TYPE_CHECKING:
    from ray_app.methods import Batch
    from ray_app.methods.encoders import Encoder

VARIABLE = "RAY_APP_CACHE"
"""Names the folder where a spec does not."""
_WAIT_S = 30.0
# SQLite's own limit on the values of one statement is above this.
_AT_ONCE = 500


class Cache:
    """Features of one encoder with one set of settings.

    Args:
        folder: On this machine's disk; made where it is missing.
        encoder: Its weights are part of the key, so features of older weights are never found.
        settings: Whatever else changes what comes out, such as the dtype.
        want: What features hold beside the pooled ones: only `layers` and `logits` can be kept.
    """

    def __init__(self, folder: Path, encoder: "Encoder", settings: str, want: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"{_weights(encoder, settings, want)}.sqlite"
        self._connection = sqlite3.connect(self.file, timeout=_WAIT_S, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        # A cache may forget what was written just before the power went.
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB)")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS shape (name TEXT PRIMARY KEY, place INT, width INT)"
        )

    def keys(self, batch: "Batch") -> list[bytes]:
        """Return a key for each prepared row."""
        columns = [(name, column) for name, column in sorted(prepared_columns(batch, keep=True).items())]
        keys = []
        for row in range(length(batch)):
            state = hashlib.blake2b(digest_size=16)
            for name, column in columns:
                value = np.asarray(column[row])
                state.update(f"{name}{value.dtype.str}{value.shape}".encode())
                state.update(np.ascontiguousarray(value).tobytes())
            keys.append(state.digest())
        return keys

    def get(self, keys: Sequence[bytes]) -> tuple[np.ndarray, Features | None]:
        """Return which keys are known (bool [n]), and the features of those, in their order."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            found.update(
                self._connection.execute(f"SELECT key, value FROM features WHERE key IN ({marks})", some)  # noqa: S608
            )
        known = np.array([key in found for key in keys], dtype=bool)
        if not found:
            return known, None
        shape = self._connection.execute("SELECT name, width FROM shape ORDER BY place").fetchall()
        values = np.stack([np.frombuffer(found[key], dtype=np.float32) for key in keys if key in found])
        parts = np.split(values, np.cumsum([width for _, width in shape])[:-1], axis=1)
        named = {name: torch.from_numpy(part.copy()) for (name, _), part in zip(shape, parts, strict=True)}
        logits = named.pop("logits", None)
        return known, Features(pooled=named.pop("pooled"), layers=_unprefixed(named), logits=logits)

    def put(self, keys: Sequence[bytes], features: Features) -> None:
        """Keep features; keys that are known already stay as they are."""
        named = {
            "pooled": features.pooled,
            **{f"layers/{name}": layer for name, layer in features.layers.items()},
            **({"logits": features.logits} if features.logits is not None else {}),
        }
        widths = [(name, place, value.shape[1]) for place, (name, value) in enumerate(named.items())]
        values = torch.cat([value.float() for value in named.values()], dim=1).cpu().numpy()
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR IGNORE INTO shape VALUES (?, ?, ?)", widths)
            self._connection.executemany(
                "INSERT OR IGNORE INTO features VALUES (?, ?)",
                [(key, row.tobytes()) for key, row in zip(keys, values, strict=True)],
            )

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


def folder_of(spec: str | None) -> Path | None:
    """Return where a spec, or else the environment, wants embeddings kept; None: nowhere."""
    said = spec or os.environ.get(VARIABLE)
    return Path(said).expanduser().absolute() if said else None


def _weights(encoder: "Encoder", settings: str, want: Sequence[str]) -> str:
    state = hashlib.blake2b(f"{type(encoder).__name__} {settings} {sorted(want)}".encode(), digest_size=16)
    for name, tensor in sorted({**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}.items()):
        state.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        state.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _unprefixed(named: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("layers/"): value for name, value in named.items()}


__all__ = ["VARIABLE", "Cache", "folder_of"]
