"""A bundle, ready to answer: members, heads and detectors on one forward pass.

Plain torch; every engine uses it.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ray_app import registry
from ray_app.bundle import Bundle, Component, Threshold
from ray_app.errors import BundleError, SpecError
from ray_app.methods._ensemble import Rule
from ray_app.methods.detectors import Detector
from ray_app.methods.encoders import Encoder, Features, Inputs, Want
from ray_app.methods.encoders._joined import Joined, join
from ray_app.methods.heads import Head

if TYPE_CHECKING:
    from ray_app.methods import Batch


@dataclass(frozen=True)
class Prediction:
    """What a bundle says of n rows."""

    proba: Tensor
    """float32 [n, c]: the bundle's answer."""
    features: Features
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    """Head → float32 [n, c]."""
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    """Detector → float32 [n], higher is more abnormal."""

    @property
    def predictions(self) -> Tensor:
        """int64 [n]: the most probable classes."""
        return self.proba.argmax(1)


class Judge(nn.Module):
    """A bundle's heads and detectors, without members: it answers from features that were computed elsewhere.

    Args:
        bundle: Verified already.
        encoder: For detectors that run the model themselves (input gradients); None: there is none here.
    """

    def __init__(self, bundle: Bundle, encoder: Encoder | None = None) -> None:
        super().__init__()
        self.bundle = bundle
        self.labels = bundle.manifest.labels
        self.temperature = bundle.manifest.temperature
        self.answer = bundle.manifest.answer
        supplied = {} if encoder is None else {"encoder": encoder}
        self.heads = nn.ModuleDict(
            {name: _learned(bundle, "heads", part) for name, part in bundle.manifest.heads.items()}
        )
        self.detectors = nn.ModuleDict(
            {
                name: _learned(bundle, "detectors", part, **supplied)
                for name, part in bundle.manifest.detectors.items()
            }
        )
        self.requires_grad_(requires_grad=False)
        self.eval()

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """Detector → its calibrated threshold, of those that have one."""
        parts = self.bundle.manifest.detectors
        return {name: part.threshold for name, part in parts.items() if part.threshold is not None}

    @property
    def needs_gradients(self) -> bool:
        """Whether a detector differentiates the model: inference mode would forbid it."""
        return any("input_grad" in part.needs for part in self._parts())

    def want(
        self, heads: Collection[str] | None = None, detectors: Collection[str] | None = None
    ) -> set[Want]:
        """Return what the forward pass must give for these heads and detectors (None: all).

        The logits are not among them unless one of these, or the bundle's answer, reads them.
        """
        needs = {need for part in self._parts(heads, detectors) for need in part.needs}
        if "input_grad" in needs:
            needs = needs - {"input_grad"} | {"inputs"}
        if self.answer == "logits":
            needs.add("logits")
        return cast(set[Want], needs)

    def judge(
        self,
        features: Features,
        heads: Collection[str] | None = None,
        detectors: Collection[str] | None = None,
    ) -> Prediction:
        """Answer from features that were computed elsewhere."""
        chosen = set(self.heads if heads is None else heads) | ({self.answer} - {"logits"})
        proba = {name: cast(Head, self.heads[name]).predict_proba(features) for name in chosen}
        scored = self.detectors if detectors is None else detectors
        scores = {name: cast(Detector, self.detectors[name]).score(features) for name in scored}
        return Prediction(
            proba=self.from_logits(features) if self.answer == "logits" else proba[self.answer],
            features=features,
            heads=proba,
            scores=scores,
        )

    def from_logits(self, features: Features) -> Tensor:
        """Return softmax(logits / temperature), float32 [n, c].

        Raises:
            BundleError: Its members have no classifier.
        """
        if features.logits is None:
            raise BundleError(
                f"{self.bundle.path}: its members have no classifier; export it with a head as `answer`"
            )
        return torch.softmax(features.logits / self.temperature, dim=1)

    def _parts(
        self, heads: Collection[str] | None = None, detectors: Collection[str] | None = None
    ) -> Iterator[Head | Detector]:
        for name in self.heads if heads is None else heads:
            yield cast(Head, self.heads[name])
        for name in self.detectors if detectors is None else detectors:
            yield cast(Detector, self.detectors[name])


class Predictor(Judge):
    """A bundle's members, heads and detectors in eval mode.

    Heads and detectors see one encoder: the member, or all of them joined (features concatenated, logits
    joined by the bundle's rule).

    Args:
        bundle: Verified already.
        device: Where to put it.
    """

    def __init__(self, bundle: Bundle, device: torch.device | str = "cpu") -> None:
        members = {name: load_member(bundle, name) for name in bundle.manifest.members}
        encoder = joined(members, bundle.manifest.rule)
        super().__init__(bundle, encoder)
        self.encoder = encoder
        _check_labels(bundle, encoder)
        self.requires_grad_(requires_grad=False)
        self.eval().to(device)

    def preprocess(self, batch: "Batch") -> Inputs:
        """Turn a batch into inputs, on the CPU; ValueError names a row that cannot be read."""
        return self.encoder.preprocess(batch)

    def want(
        self, heads: Collection[str] | None = None, detectors: Collection[str] | None = None
    ) -> set[Want]:
        """Return what the forward pass must give for these (None: all), and the logits where it has them."""
        logits: set[Want] = {"logits"} if self.encoder.num_classes else set()
        return super().want(heads, detectors) | logits

    def forward(
        self,
        inputs: Inputs,
        heads: Collection[str] | None = None,
        detectors: Collection[str] | None = None,
    ) -> Prediction:
        """Answer for n inputs, with these heads and detectors (None: all)."""
        wanted = self.want(heads, detectors)
        inputs = (
            inputs.to(self.device)
            if isinstance(inputs, Tensor)
            else {k: v.to(self.device) for k, v in inputs.items()}
        )
        return self.judge(self.encoder(inputs, wanted), heads, detectors)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.encoder.device


def load_member(bundle: Bundle, name: str) -> Encoder:
    """Construct one member and load its weights.

    Raises:
        BundleError: It cannot be constructed here, or its weights do not fit.
    """
    return cast(
        Encoder,
        _learned(bundle, "encoders", bundle.manifest.members[name], assets=bundle.path / "assets" / name),
    ).eval()


def preprocessor(bundle: Bundle) -> Encoder:
    """Return an encoder that can preprocess for all members and takes no memory: it has no weights.

    Raises:
        BundleError: It cannot be constructed here.
    """
    name, part = next(iter(bundle.manifest.members.items()))
    return cast(Encoder, _constructed(bundle, "encoders", part, assets=bundle.path / "assets" / name)).to(
        "meta"
    )


def joined(members: Mapping[str, Encoder], rule: Rule = "logits") -> Encoder:
    """Return one encoder for all members."""
    return next(iter(members.values())) if len(members) == 1 else Joined(members, rule)


def _constructed(bundle: Bundle, family: str, part: Component, **supplied: object) -> nn.Module:
    try:
        return cast(nn.Module, registry.build(family, part.method.name, part.method.options, **supplied))
    except SpecError as error:
        raise BundleError(f"{bundle.path}: {error}; was it made by another version of ray-app?") from error


def _learned(bundle: Bundle, family: str, part: Component, **supplied: object) -> nn.Module:
    module = _constructed(bundle, family, part, **supplied)
    try:
        module.load_state_dict(bundle.tensors(part.file))
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise BundleError(
            f"{bundle.path}: {part.file} does not fit {family}/{part.method.name} ({reason}); export it again"
        ) from error
    return module


def _check_labels(bundle: Bundle, encoder: Encoder) -> None:
    members = encoder.members.values() if isinstance(encoder, Joined) else [encoder]
    widths = {cast(Encoder, member).num_classes for member in members}
    if len(widths) > 1:
        raise BundleError(
            f"{bundle.path}: its members have {sorted(widths)} classes; they must agree, export it again"
        )
    labels = len(bundle.manifest.labels)
    if encoder.num_classes not in (0, labels):
        raise BundleError(
            f"{bundle.path}: has {labels} labels for {encoder.num_classes} logits; export it with one each"
        )


__all__ = ["Judge", "Prediction", "Predictor", "join", "joined", "load_member", "preprocessor"]
