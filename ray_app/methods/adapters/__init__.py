"""Adapters decide which parameters train, and how.

    adapter.attach(model)     the model, changed in place: requires_grad on exactly what trains
    ...                       a training step's loss is the objective's plus adapter.penalty(model)
    adapter.merge(model)      the model again, of the plain architecture, with what was learned in its weights

All state is in the model, none in the adapter: a copy of an attached model (an average over steps, say) can
be merged, and so can one whose state was loaded into a model that was attached with the same options.

What all adapters have in common: the classifier trains. Normalisation statistics (batch norm's) stay those of
the start, also in train mode, except where all of the network trains (`full`, `sparse`): weights that cannot
move should not meet other activations at each batch.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from ray_app.methods.encoders import Encoder

# In the model's __dict__, so that copies have it and state_dict has not.
_RECORD = "_adapter"


class Adapter(ABC):
    """Attach to a model before training, merge into the plain architecture after it."""

    merges: ClassVar[bool] = True
    """Whether merge gives back the plain architecture, outputs equal to 1e-5 in float32. Where not (a map not
    linear), merge raises ValueError, and what was trained runs in a model that the adapter is attached to:
    build it anew, attach with the same options, load the state. Soups are of plain architectures."""

    holds_statistics: ClassVar[bool] = True
    """Whether normalisation statistics stay as they were found."""

    @property
    def name(self) -> str:
        """Its name in YAML."""
        return type(self).__module__.rpartition(".")[2]

    def attach(self, model: "Encoder") -> "Encoder":
        """Change the model in place and return it, with `requires_grad` on exactly what trains.

        The same options and model give the same bytes. It comes after the start's weights are loaded and
        before the optimiser is made.

        Raises:
            ValueError: The model has an adapter already, or nothing that this one can work on.
        """
        if attached := model.__dict__.get(_RECORD):
            raise ValueError(
                f"{self.name}: the model already has the adapter {attached['name']}; merge that first"
            )
        found = {name: p.requires_grad for name, p in model.named_parameters(remove_duplicate=False)}
        orders = {name: list(module._parameters) for name, module in model.named_modules()}
        self._check(model)
        # Before anything is added: a norm that the adapter brings has to learn its statistics.
        counting = [m for m in model.modules() if any(name.startswith("running_") for name in m._buffers)]
        for parameter in model.parameters():
            parameter.requires_grad = False
        try:
            self._insert(model)
        except ValueError:
            _mark(model, found)
            raise
        if self.holds_statistics:
            _hold(counting)
        model.__dict__[_RECORD] = {"name": self.name, "requires_grad": found, "orders": orders}
        return model

    def merge(self, model: "Encoder") -> "Encoder":
        """Write what was learned into the plain weights, in place, and return the model.

        Names, shapes and types of its state and `requires_grad` are those that attach found. If nothing was
        trained, its weights are too, to the bit.

        Raises:
            ValueError: The model has no adapter or another one, or this kind cannot be merged.
        """
        attached = model.__dict__.get(_RECORD)
        if attached is None:
            raise ValueError(f"{self.name}: nothing to merge; attach it to this model first")
        if attached["name"] != self.name:
            raise ValueError(
                f"{self.name}: the model has the adapter {attached['name']}; merge it with that one"
            )
        if not self.merges:
            raise ValueError(
                f"{self.name}: is not linear, so no plain weights compute the same; keep it attached, or "
                "choose an adapter that merges (lora, svfit, bitfit) where weights are averaged"
            )
        self._remove(model)
        _let_go(model)
        for name, module in model.named_modules():
            # What was taken away and put back is at the end; optimisers and norms go by order.
            kept = {key: module._parameters[key] for key in attached["orders"].get(name, [])}
            module._parameters.clear()
            module._parameters.update(kept)
        _mark(model, attached["requires_grad"])
        del model.__dict__[_RECORD]
        return model

    def penalty(self, model: "Encoder") -> "Tensor | None":
        """Return a scalar to add to the loss, about the model's latest forward pass; None: nothing."""
        return None

    def _check(self, model: "Encoder") -> None:
        """Refuse a model that this adapter cannot work on, before anything is changed.

        Raises:
            ValueError: By default, logits that do not come from one linear layer: nothing would train it.
        """
        if model.num_classes and model.classifier is None:
            raise ValueError(
                f"{self.name}: the model's classifier is not one linear layer and would stay frozen; use full"
            )

    @abstractmethod
    def _insert(self, model: "Encoder") -> None:
        """Mark what trains (nothing does so far), add what is missing."""

    def _remove(self, model: "Encoder") -> None:  # noqa: B027 # most leave plain weights as they are
        """Undo _insert, with what was learned in the plain weights; by default there is nothing to undo."""


def train_classifier(model: "Encoder") -> None:
    """Mark the classifier's parameters, where there is one."""
    for parameter in model.classifier.parameters() if model.classifier is not None else ():
        parameter.requires_grad_()


def _mark(model: "Encoder", trains: "Mapping[str, bool]") -> None:
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.requires_grad = trains[name]


def _still(module: "nn.Module", _: Any) -> None:
    """Before each forward pass: whatever model.train() said."""
    module.training = False


def _hold(modules: "list[nn.Module]") -> None:
    """Keep modules in eval mode."""
    for module in modules:
        # Hooks, unlike overridden methods, survive copies.
        module.register_forward_pre_hook(_still)


def _let_go(model: "Encoder") -> None:
    for module in model.modules():
        # By the function: in a copy of the model, the handles would be the original's.
        for key in [key for key, hook in module._forward_pre_hooks.items() if hook is _still]:
            del module._forward_pre_hooks[key]
