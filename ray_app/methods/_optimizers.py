"""Optimisers by name: torch's own `adamw`, `adam` and `sgd`, all others as timm makes them."""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

    from ray_app.methods.encoders import Encoder

# timm's `sgd` is Nesterov's; here a name means what torch calls by it.
_NATIVE: Mapping[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
_OURS = ("self", "params", "lr", "weight_decay")


def check(name: str, given: Mapping[str, Any]) -> None:
    """Refuse an optimiser or an option that there is not.

    Raises:
        ValueError: Names the nearest ones.
    """
    known = _options(name)
    for key in given:
        if key in _OURS:
            raise ValueError(f"optimizer/{name}: {key} has a setting of its own; write it beside `optimizer`")
        if key not in known:
            raise ValueError(
                f"optimizer/{name} has no option {key!r}{_nearest(key, known)} (options: {', '.join(known)})"
            )


def build(
    name: str, groups: Iterable[dict[str, Any]], given: Mapping[str, Any], *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return an optimiser of parameter groups.

    Args:
        name: See check.
        groups: What torch's optimisers take; a group's own lr stays.
        given: The optimiser's further options.
        lr: Learning rate.
        weight_decay: As the optimiser means it.

    Raises:
        ValueError: It refuses its options, or needs a package that is not installed.
    """
    check(name, given)
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    try:
        if name in _NATIVE:
            make: Any = _NATIVE[name]
            return make(list(groups), lr=lr, weight_decay=weight_decay, **options)
        import timm.optim

        return timm.optim.create_optimizer_v2(
            list(groups), opt=name, lr=lr, weight_decay=weight_decay, **options
        )
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"optimizer/{name}: {error}; use adamw or mend its options") from error


def layered(
    groups: Iterable[dict[str, Any]], model: "Encoder", lr: float, decay: float
) -> list[dict[str, Any]]:
    """Return parameter groups with a learning rate a layer: lr times decay to the power of layers after it.

    Parameters that are not the model's have lr.

    Args:
        groups: Parameter groups.
        model: Whose layers count.
        lr: Of what comes after the last layer.
        decay: In 0..1.

    Raises:
        ValueError: The model's parameters do not say which layer they are of.
    """
    depths = _depths(model)
    last = max(depths.values())
    made = []
    for group in groups:
        by_depth: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_depth.setdefault(depths.get(id(parameter), last), []).append(parameter)
        for depth, parameters in sorted(by_depth.items()):
            own = group.get("lr", lr) * decay ** (last - depth)
            made.append({**group, "params": parameters, "lr": own})
    return made


def _depths(model: "Encoder") -> dict[int, int]:
    """Each parameter's layer, counted from the input; the classifier's is the last."""
    net: Any = getattr(model, "net", None)
    if hasattr(net, "group_matcher"):
        from timm.models import group_parameters

        layers = group_parameters(net, net.group_matcher(coarse=False), reverse=True)
        depths = {id(parameter): layers[name] for name, parameter in net.named_parameters()}
    else:
        # `encoder.layer.3.output.weight` is of layer 3; embeddings come before the first, all else after.
        numbers = {
            name: int(digits[0])
            for name, _ in model.named_parameters()
            if (digits := [part for part in name.split(".") if part.isdigit()])
        }
        last = max(numbers.values(), default=0)
        if last == 0:
            raise ValueError("layer_decay: the model's parameters name no layers; set it to 1")
        depths = {
            id(parameter): numbers[name] + 1 if name in numbers else 0 if "embed" in name else last + 2
            for name, parameter in model.named_parameters()
        }
    after = max(depths.values())
    classifier = model.classifier
    return {**depths, **{id(p): after for p in (classifier.parameters() if classifier is not None else ())}}


def _options(name: str) -> list[str]:
    cls: Any = _NATIVE.get(name)
    if cls is None:
        import timm.optim

        known = timm.optim.list_optimizers()
        if name not in known:
            every = sorted({*_NATIVE, *known})
            raise ValueError(f"unknown optimizer {name!r}{_nearest(name, every)} (known: {', '.join(every)})")
        info = timm.optim.get_optimizer_info(name)
        if info.second_order:
            raise ValueError(f"optimizer/{name}: needs second derivatives, which training has not; use adamw")
        cls = info.opt_class
    return [option for option in inspect.signature(cls.__init__).parameters if option not in _OURS]


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
