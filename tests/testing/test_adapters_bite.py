"""The adapters' suite notices what does not hold."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from ray_app.methods.adapters import Adapter, _hold
from ray_app.methods.adapters._change import Shift
from ray_app.methods.adapters.bitfit import BitFit
from ray_app.methods.adapters.full import Full
from ray_app.methods.adapters.linear_probe import LinearProbe
from ray_app.methods.adapters.lora import LoRA
from ray_app.methods.adapters.nmtune import NMTune
from ray_app.methods.adapters.svfit import SVFit
from ray_app.methods.encoders import Encoder
from ray_app.testing.adapters import check_adapter


class LeavesMarks(LinearProbe):
    def merge(self, model: Encoder) -> Encoder:
        marked = {name: p.requires_grad for name, p in model.named_parameters()}
        super().merge(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(marked[name])
        return model


class MergesAnything(LinearProbe):
    def merge(self, model: Encoder) -> Encoder:
        return super().merge(model) if "_adapter" in vars(model) else model


class AttachesTwice(LinearProbe):
    def attach(self, model: Encoder) -> Encoder:
        vars(model).pop("_adapter", None)
        return super().attach(model)


class TrainsNothing(Adapter):
    def _insert(self, model: Encoder) -> None:
        """Mark nothing."""


class ForgetsTheClassifier(BitFit):
    def _insert(self, model: Encoder) -> None:
        super()._insert(model)
        assert model.classifier is not None
        model.classifier.requires_grad_(requires_grad=False)


class LetsStatisticsDrift(Full):
    holds_statistics = True

    def attach(self, model: Encoder) -> Encoder:
        super().attach(model)
        for module in model.modules():
            module._forward_pre_hooks.clear()
        return model


class DrawsAnew(LoRA):
    def _insert(self, model: Encoder) -> None:
        self.seed = next(_SEEDS)
        super()._insert(model)


_SEEDS = iter(range(1000))


class ChangesTheStart(LoRA):
    def _insert(self, model: Encoder) -> None:
        super()._insert(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.1)


class ForgetsWhatItLearned(LoRA):
    def _remove(self, model: Encoder) -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.zero_()
        super()._remove(model)


class LosesBits(SVFit):
    def _remove(self, model: Encoder) -> None:
        super()._remove(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 1e-6)


class StaysFrozenInEval(SVFit):
    def merge(self, model: Encoder) -> Encoder:
        held = [module for module in model.modules() if module._forward_pre_hooks]
        hooks = [dict(module._forward_pre_hooks) for module in held]
        super().merge(model)
        for module, kept in zip(held, hooks, strict=True):
            module._forward_pre_hooks.update(kept)
        return model


class BreaksTies(SVFit):
    def _remove(self, model: Encoder) -> None:
        super()._remove(model)
        tied: Any = model.get_submodule("tied")
        tied[1].weight = nn.Parameter(tied[1].weight.detach().clone())


class RenamesParameters(SVFit):
    def merge(self, model: Encoder) -> Encoder:
        super().merge(model)
        model.extra = nn.Parameter(torch.zeros(1))
        return model


class StripsTheClass(SVFit):
    """Takes parametrizations off as torch does, which takes them off a copy's class too."""

    def _remove(self, model: Encoder) -> None:
        for module in [module for module in model.modules() if is_parametrized(module)]:
            remove_parametrizations(module, "weight")


class FrozenStateApart(SVFit):
    """Computes weights from what was there on attaching, which a loaded state does not bring."""

    def _insert(self, model: Encoder) -> None:
        super()._insert(model)
        for module in model.modules():
            if isinstance(module, Shift):
                module._non_persistent_buffers_set |= {"u", "v"}


class PenalisesWithAVector(NMTune):
    def penalty(self, model: Encoder) -> Tensor | None:
        penalty = super().penalty(model)
        return None if penalty is None else penalty.expand(2)


class MergesWhatItCannot(NMTune):
    def merge(self, model: Encoder) -> Encoder:
        return model


class HoldsItsOwn(NMTune):
    def attach(self, model: Encoder) -> Encoder:
        super().attach(model)
        _hold(list(model.modules()))
        return model


class MovesTheFrozen(LinearProbe):
    def penalty(self, model: Encoder) -> Tensor | None:
        with torch.no_grad():
            model.get_parameter("stem.weight").add_(1.0)
        return None


class ForgetsHalves(SVFit):
    def _remove(self, model: Encoder) -> None:
        super()._remove(model)
        if next(model.parameters()).dtype == torch.float16:
            model.float()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (LeavesMarks, "requires_grad of .* must be as attach found it"),
        (MergesAnything, "merge without attach must raise"),
        (AttachesTwice, "attaching twice must raise"),
        (TrainsNothing, "something must train"),
        (ForgetsTheClassifier, "the classifier must train"),
        (LetsStatisticsDrift, "must not drift"),
        (DrawsAnew, "same options and model must give the same bytes"),
        (ChangesTheStart, "answers must be those of the start"),
        (ForgetsWhatItLearned, "merged answers must be the attached ones"),
        (LosesBits, "the start to the bit"),
        (StaysFrozenInEval, r"must obey train\(\)"),
        (BreaksTies, "what was tied must be tied again|must have the plain state's names"),
        (RenamesParameters, "must have the plain state's names"),
        (lambda: StripsTheClass(targets=["mlp.0"]), "the original attached and as it was"),
        (FrozenStateApart, "attached state through safetensors"),
        (MovesTheFrozen, "does not train and must not change"),
        (ForgetsHalves, "untrained torch.float16 weights"),
    ],
)
def test_a_broken_adapter_is_noticed(make: Callable[[], Adapter], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_adapter(make)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (PenalisesWithAVector, "finite scalar"),
        (MergesWhatItCannot, "must raise ValueError"),
        (HoldsItsOwn, "must learn its statistics"),
    ],
)
def test_a_broken_adapter_that_does_not_merge_is_noticed(make: Callable[[], Adapter], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_adapter(make, same_start=False)
