"""Files of a run folder: JSON and safetensors, each written under a temporary name and renamed."""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_app.errors import RunError

if TYPE_CHECKING:
    from ray_app.methods import StateDict


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    _replace(path, json.dumps(content, indent=1, allow_nan=True).encode())


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


def write_state(path: Path, state: "StateDict") -> None:
    """Write weights, whole or not at all."""
    from safetensors.torch import save

    _replace(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}))


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


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps a killed run's leftover apart from its successor's file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
