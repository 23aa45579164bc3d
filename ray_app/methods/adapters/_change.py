"""Weights that are read as a function of what is stored: the frozen start, and the little that trains."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from ray_app.methods.adapters._layers import places

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder


class Change(nn.Module):
    """The stored weight to the weight that is used, of the same shape and type."""


class Shift(Change):
    """Adds to the start's weight; what trains is among its parameters."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight that is used."""
        # In full precision whatever the pass around it: differences to the start are small beside it.
        high = torch.promote_types(weight.dtype, torch.float32)
        with torch.autocast(weight.device.type, enabled=False):
            return (weight.to(high) + self.delta(high).view_as(weight)).to(weight.dtype)

    @abstractmethod
    def delta(self, dtype: torch.dtype) -> Tensor:
        """Return what is added, with as many numbers as the weight has; exactly 0 before training."""


def change(model: "Encoder", changes: Mapping[nn.Parameter, Change], name: str) -> None:
    """Let parameters be read through these changes, in every module that holds them.

    Args:
        model: The encoder.
        changes: Parameter → how it is read. A tied parameter has one change in all of its places.
        name: The adapter's name, for errors.

    Raises:
        ValueError: A module computes its weights already.
    """
    where = places(model)
    for module in {module for parameter in changes for module, _ in where[parameter]}:
        if is_parametrized(module):
            raise ValueError(
                f"{name}: a {type(module).__name__} computes its weights already (weight norm?); "
                "take that off first: torch.nn.utils.parametrize.remove_parametrizations"
            )
    for parameter, how in changes.items():
        how.train(model.training).to(parameter.device)
        for module, key in where[parameter]:
            register_parametrization(module, key, how)


@torch.no_grad()
def settle(model: "Encoder") -> None:
    """Undo `change`: what was read becomes what is stored, in the parameters that were there before."""
    changed = [module for module in model.modules() if is_parametrized(module) and _is_ours(module)]
    stored = [
        (module, key, parametrized.get_parameter("original"), getattr(module, key).clone())
        for module in changed
        for key, parametrized in _parametrized(module).items()
    ]
    for module in changed:
        # Not by remove_parametrizations: it strips the class, which a copy of the model shares with it.
        module.__class__ = type(module).__bases__[0]
        del module.parametrizations
    for module, key, parameter, value in stored:
        parameter.copy_(value)
        module.register_parameter(key, parameter)


def _parametrized(module: nn.Module) -> dict[str, nn.Module]:
    return dict(module.get_submodule("parametrizations").named_children())


def _is_ours(module: nn.Module) -> bool:
    return all(isinstance(each.get_submodule("0"), Change) for each in _parametrized(module).values())
