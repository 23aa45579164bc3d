"""Files of a run folder: JSON and safetensors, each written under a temporary name and renamed."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_app.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from ray_app.methods import StateDict
    from ray_app.methods._weights import Weights


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with _replacing(path) as temporary:
        temporary.write_bytes(json.dumps(content, indent=1, allow_nan=True).encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        RunError: It is not readable; the message names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: not readable as JSON ({error}); delete it and run the same command again"
        ) from error


def write_state(path: Path, state: "Weights", metadata: Mapping[str, str] | None = None) -> None:
    """Write weights, whole or not at all; what is computed as it is read is held once, and not copied."""
    from safetensors.torch import save_file

    held: dict[str, Tensor] = {}
    places = set[int]()
    for name, tensor in state.items():
        plain = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory, as tied weights do.
        place = plain.untyped_storage().data_ptr()
        held[name] = plain.clone() if place in places else plain
        places.add(place)
    with _replacing(path) as temporary:
        save_file(held, temporary, dict(metadata) if metadata else None)


def open_state(path: Path) -> "Weights":
    """Return weights that are read tensor by tensor, and of which nothing stays in memory.

    Raises:
        RunError: They are not readable; the message names the file.
    """
    from safetensors import SafetensorError, safe_open

    from ray_app.methods._weights import Lazy

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: not readable as safetensors ({error}); delete it and run again") from error
    return Lazy(names, partial(_read_tensor, path))


def file_key(path: Path) -> str:
    """Return 24 hex digits that tell files apart by their content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=12)).hexdigest()


def read_state(path: Path) -> "StateDict":
    """Read weights.

    Raises:
        RunError: They are not readable; the message names the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: not readable as safetensors ({error}); delete it and run again") from error


def digest(*parts: Any) -> str:
    """Return 12 hex digits that tell contents apart."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class _Reader(threading.local):
    """Reads tensors of a few files in turn; each thread has its own.

    Opening a file for each tensor takes longer than reading it, and an open file keeps all that was read of
    it mapped, a whole model in the end: so a few stay open, and each is opened anew every so many bytes.
    """

    files, window = 2, 4 << 20

    def __init__(self) -> None:
        self._open: dict[tuple[Path, int, int], list[Any]] = {}

    def __call__(self, path: Path, name: str) -> "Tensor":
        from safetensors import safe_open

        found = path.stat()
        what = (path, found.st_ino, found.st_mtime_ns)
        file, left = self._open.pop(what, None) or (safe_open(path, "pt"), self.window)
        if left <= 0:
            file, left = safe_open(path, "pt"), self.window
        tensor: Tensor = file.get_tensor(name)
        # The one used last is the last to go.
        self._open[what] = [file, left - tensor.numel() * tensor.element_size()]
        while len(self._open) > self.files:
            del self._open[next(iter(self._open))]
        return tensor


_reader = _Reader()


def _read_tensor(path: Path, name: str) -> "Tensor":
    return _reader(path, name)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary name; what was written there is on the disk, and at its place, afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps a killed run's leftover apart from its successor's file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
