"""Modules whose learned state is in buffers that grow: classes are met one by one, banks fill up."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Learned(nn.Module):
    """A module whose `load_state_dict` takes the shapes that the state has, not those it was constructed with.

    What a head or a detector learned is in registered buffers. Before fitting they are empty; a strict load would
    refuse every fitted state. Names are still checked, so a foreign state is refused.

    A subclass whose buffers come in families (one a layer, say) sets `growing` to their common prefix; those are
    registered as the state brings them.
    """

    growing: tuple[str, ...] = ()

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for key, value in state_dict.items():
            name = key.removeprefix(prefix)
            if not key.startswith(prefix) or "." in name:
                continue
            if name in self._buffers or name.startswith(self.growing or ("\0",)):
                device = self._device()
                # A copy: the caller's tensors (a memory-mapped file, another module) must not change with ours.
                self.register_buffer(name, torch.empty_like(value, device=device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _device(self) -> torch.device | None:
        return next((buffer.device for buffer in self._present()), None)

    def _present(self) -> Iterator[Tensor]:
        return (buffer for buffer in self._buffers.values() if buffer is not None)
