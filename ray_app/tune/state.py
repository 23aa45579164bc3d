"""Where a training stands between two epochs, in one file: tensors as they are, and all else as JSON."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ray_app.errors import RunError
from ray_app.tune.store import write_state

_FILE = "state.safetensors"
_SEVERAL = {"list": list, "tuple": tuple}


class Saved:
    """A folder with the state of one training: it goes on from there, to the bit.

    Args:
        folder: Holds the state and nothing else; need not exist.
        every_s: Seconds from one write to the next, at least, so that a short training pays nothing.
    """

    def __init__(self, folder: Path, every_s: float) -> None:
        self.folder, self.every_s = folder, every_s
        self._written = time.monotonic()

    @property
    def epoch(self) -> int:
        """How many epochs the state there has been trained for; 0: there is none.

        Raises:
            RunError: It is not readable; the message names the file.
        """
        return int(self._header()["epoch"]) if self._path.exists() else 0

    @property
    def due(self) -> bool:
        """Whether the latest write, or the beginning, is long enough ago."""
        return time.monotonic() - self._written >= self.every_s

    def write(self, epoch: int, content: Any) -> None:
        """Replace what is there, whole or not at all.

        Args:
            epoch: So many were trained.
            content: Mappings and lists of tensors, numbers, text and None.

        Raises:
            TypeError: Something else is in it.
        """
        tensors: dict[str, Tensor] = {}
        plain = _without_tensors(content, tensors, "state")
        write_state(self._path, tensors, {"epoch": str(epoch), "content": json.dumps(plain)})
        self._written = time.monotonic()

    def read(self) -> Any:
        """Return what was written; None: nothing.

        Raises:
            RunError: It is not readable; the message names the file.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not self._path.exists():
            return None
        try:
            return _with_tensors(json.loads(self._header()["content"]), load_file(self._path))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise self.refused(str(error)) from error

    def copy_to(self, folder: Path) -> None:
        """Let another training go on from here; what it had is replaced, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{_FILE}.{os.getpid()}"
        shutil.copyfile(self._path, temporary)
        temporary.replace(folder / _FILE)

    def delete(self) -> None:
        """Remove what is there, if anything is."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def refused(self, reason: str) -> RunError:
        """Return the error that says why a training cannot go on from here."""
        return RunError(f"{self._path}: no state to go on from ({reason}); delete it and run again")

    @property
    def _path(self) -> Path:
        return self.folder / _FILE

    def _header(self) -> dict[str, str]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path, "pt") as file:
                header: dict[str, str] = file.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise self.refused(str(error)) from error
        if missing := {"epoch", "content"} - header.keys():
            raise self.refused(f"its header lacks {sorted(missing)[0]}")
        return header


def _without_tensors(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    """What JSON can hold; tensors go to `tensors`, under the name of their place."""
    if isinstance(value, Tensor):
        tensors[place] = value
        return {"tensor": place}
    if isinstance(value, dict):
        # Pairs, for keys that are numbers, as those of an optimiser's state are.
        return {
            "dict": [
                [key, _without_tensors(one, tensors, f"{place}/{number}")]
                for number, (key, one) in enumerate(value.items())
            ]
        }
    if isinstance(value, (list, tuple)):
        return {
            type(value).__name__: [
                _without_tensors(one, tensors, f"{place}/{number}") for number, one in enumerate(value)
            ]
        }
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{place}: {type(value).__name__} is nothing that a state can hold")


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "dict":
        return {key: _with_tensors(one, tensors) for key, one in held}
    return _SEVERAL[kind](_with_tensors(one, tensors) for one in held)


def chance(generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """Return the states of a generator, and of torch's global ones, which dropout draws from."""
    found = {"own": generator.get_state(), "cpu": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_chance(found: dict[str, Tensor], generator: torch.Generator, device: torch.device) -> None:
    """Set them to what they were; where a GPU was used and none is now, its generator is left out."""
    generator.set_state(found["own"])
    torch.set_rng_state(found["cpu"])
    if device.type == "cuda" and "cuda" in found:
        torch.cuda.set_rng_state(found["cuda"], device)
