"""Which layers an adapter works on, by name."""

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder


def layers(model: "Encoder", targets: Sequence[str] | None, name: str) -> dict[str, nn.Module]:
    """Return linear and convolution layers by dotted name, in the model's order; never the classifier.

    Args:
        model: The encoder.
        targets: Only those whose dotted name ends in one of these (`attn.qkv`, `query`); None: all of them.
        name: The adapter's name, for errors.

    Raises:
        ValueError: A target that no layer is called, or a model without such layers.
    """
    known = {path: module for path, module in model.named_modules() if _is_layer(module, model.classifier)}
    if not known:
        raise ValueError(
            f"{name}: the model has no linear or convolution layer beside its classifier; use full"
        )
    if targets is None:
        return known
    chosen = {}
    for target in targets:
        found = {path: module for path, module in known.items() if f".{path}".endswith(f".{target}")}
        if not found:
            near = get_close_matches(target, [*known, *(path.rpartition(".")[2] for path in known)], n=3)
            hint = f"; near: {', '.join(dict.fromkeys(near))}" if near else ""
            raise ValueError(
                f"{name}: targets name {target!r}, which no layer is called{hint} (the first layers: "
                f"{', '.join(list(known)[:4])})"
            )
        chosen.update(found)
    return {path: module for path, module in known.items() if path in chosen}


def weights(model: "Encoder", targets: Sequence[str] | None, name: str) -> list[nn.Parameter]:
    """Return the weights of `layers`, each once; never one that the classifier shares."""
    own = set(model.classifier.parameters()) if model.classifier is not None else set()
    found = dict.fromkeys(layer._parameters["weight"] for layer in layers(model, targets, name).values())
    return [weight for weight in found if weight is not None and weight not in own]


def places(model: "Encoder") -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """Return the modules that hold each parameter, with its name there; a tied one has several."""
    found: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(parameter, []).append((module, key))
    return found


def shared(model: "Encoder") -> set[nn.Parameter]:
    """Return parameters with more than one name: tied ones, and those of modules registered twice."""
    counts = Counter(parameter for _, parameter in model.named_parameters(remove_duplicate=False))
    return {parameter for parameter, count in counts.items() if count > 1}


def inside(model: "Encoder", kind: type[nn.Module]) -> Iterator[nn.Module]:
    """Yield the modules within modules of a kind."""
    for module in model.modules():
        if isinstance(module, kind):
            yield from module.modules()


def _is_layer(module: nn.Module, classifier: nn.Module | None) -> bool:
    # transformers' Conv1D is a linear layer whose weight is transposed; by name, so that it is not imported.
    transposed = f"{type(module).__module__}.{type(module).__name__}" == "transformers.pytorch_utils.Conv1D"
    known = transposed or isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    # Where something else computes the weight (weight norm), it is no parameter.
    return known and module is not classifier and module._parameters.get("weight") is not None
