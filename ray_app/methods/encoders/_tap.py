"""One forward-hook tap for all that look inside a network: named modules' outputs of a single pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Take = Callable[[str, Tensor], None]


@contextmanager
def tapped(model: nn.Module, names: Mapping[str, str], take: Take) -> Iterator[None]:
    """Call `take(layer, output)` while the model runs, as soon as each module has its output.

    The output is handed over at once because a following in-place non-linearity would overwrite it; a taker
    that keeps more than a reduction of it must clone.

    Args:
        model: The network.
        names: Layer name → the module's dotted name in the model.
        take: Receives the module's output, or the first tensor of a tuple.

    Raises:
        ValueError: The model has no module of that name.
    """
    hooks = []
    try:
        for layer, module_name in names.items():
            try:
                module = model.get_submodule(module_name)
            except AttributeError as error:
                known = ", ".join(name for name, _ in model.named_children())
                raise ValueError(f"no layer {module_name!r} in this model (top level: {known})") from error

            def hook(_: nn.Module, __: Any, output: Any, layer: str = layer) -> None:
                take(layer, output[0] if isinstance(output, (tuple, list)) else output)

            hooks.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in hooks:
            handle.remove()


def channels_first(output: Tensor, channels: int | None) -> Tensor:
    """Return a map [n, c, h, w] whichever way round the network keeps it.

    Args:
        output: [n, c, h, w] or [n, h, w, c].
        channels: c, where it is known; it decides.
    """
    if channels is not None and output.shape[1] != channels and output.shape[-1] == channels:
        return output.movedim(-1, 1)
    return output


def pooled(output: Tensor, channels: int | None = None, prefix: int = 0) -> Tensor:
    """Return float32 [n, c]: the mean over space, or over tokens after the first `prefix` ones."""
    if output.ndim == 4:
        output = channels_first(output, channels).flatten(2).mean(2)
    elif output.ndim == 3:
        output = output[:, prefix:].mean(1)
    elif output.ndim != 2:
        output = output.flatten(1)
    return output.float()
