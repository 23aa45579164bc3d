"""Modules whose learned state is in buffers that grow: classes are met one by one, banks fill up."""

from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Learned(nn.Module):
    """A module whose `load_state_dict` takes the shapes that the state has, not those it was made with.

    What a head or a detector learned is in registered buffers. Before fitting they are empty; a strict load
    would refuse every fitted state. Names are still checked, so a foreign state is refused.

    A subclass whose buffers come in families (one a layer, say) sets `growing` to their common prefix; those
    are registered as the state brings them.
    """

    growing: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self._memo: dict[str, Any] = {}

    def derive(self, key: str, make: Callable[[], T]) -> T:
        """Return what `make` computes from the state, once until the state changes.

        Setting a buffer, loading a state and moving to a device change it; writing into a buffer goes unseen,
        so set a new one. The result can be used where gradients are asked for, even if it was first needed in
        inference mode.
        """
        if key not in self._memo:
            with torch.inference_mode(mode=False), torch.no_grad():
                self._memo[key] = make()
        return self._memo[key]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_buffers", ()):
            self._memo.clear()
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # A copy, or a worker that is sent one, derives for itself.
        return {**self.__dict__, "_memo": {}}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002
        self._memo.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self._memo.clear()
        for name in [n for n in self._buffers if n.startswith(self.growing or ("\0",))]:
            if prefix + name not in state_dict:
                del self._buffers[name]
        for key, value in state_dict.items():
            name = key.removeprefix(prefix)
            if not key.startswith(prefix) or "." in name:
                continue
            if name in self._buffers or name.startswith(self.growing or ("\0",)):
                device = self._device()
                # A copy: the caller's tensors (a memory-mapped file, another module) must not change with
                # ours.
                self.register_buffer(name, torch.empty_like(value, device=device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _device(self) -> torch.device | None:
        return next((buffer.device for buffer in self._present()), None)

    def _present(self) -> Iterator[Tensor]:
        return (buffer for buffer in self._buffers.values() if buffer is not None)
