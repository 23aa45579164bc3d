"""Weights by name, each tensor read or computed when it is asked for: no model is ever held as a whole."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from torch import Tensor

Weights: TypeAlias = Mapping[str, Tensor]
"""Parameter or buffer name → tensor. A state dict is one; so is a file that is read tensor by tensor."""


class Lazy(Mapping[str, Tensor]):
    """Weights that nothing holds.

    Args:
        names: In the order of the state dict.
        read: Name → tensor. It is called at each access, so whoever needs a tensor twice keeps it.
    """

    def __init__(self, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
        self._names = dict.fromkeys(names)
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        # Mapping's own would read the tensor.
        return name in self._names
