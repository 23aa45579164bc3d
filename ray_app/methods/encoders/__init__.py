"""Encoders turn inputs into features. One forward pass serves every head, detector and score on it."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np

    from ray_app.methods import Batch

Modality: TypeAlias = Literal["image", "text", "audio", "tensor"]
Inputs: TypeAlias = Tensor | dict[str, Tensor]
"""What an encoder's forward takes: a tensor with n rows, or a dict of such."""

Want: TypeAlias = Literal["layers", "maps", "tokens", "logits", "inputs"]
"""What may be asked of a forward pass beside the pooled features. Nobody computes what nobody asked for."""


@dataclass(frozen=True)
class Features:
    """What an encoder returns. Floating tensors are float32; all have the same number of rows n."""

    pooled: Tensor
    """[n, d]"""
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    """Layer name → [n, d_l], pooled over space or tokens, in the order of the forward pass."""
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    """Layer name → [n, c, h, w]."""
    tokens: Tensor | None = None
    """[n, t, d], padded; see lengths."""
    lengths: Tensor | None = None
    """int64 [n]: how many tokens of each row are real."""
    logits: Tensor | None = None
    """[n, c], before softmax."""
    inputs: Inputs | None = None
    """What forward was given, for methods that need gradients with respect to it."""

    def __len__(self) -> int:
        return len(self.pooled)

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Return the chosen rows: a slice, an index tensor [m], or a boolean mask [n]."""
        return self.map(lambda value: value[rows])

    def map(self, change: Any) -> Self:
        """Return a copy with `change` applied to every tensor."""
        return replace(self, **{f.name: _apply(change, getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on a device."""
        return self.map(lambda value: value.to(device))

    def detach(self) -> Self:
        """Return a copy outside of any gradient graph."""
        return self.map(lambda value: value.detach())

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Join rows. Tokens are padded to the longest.

        Raises:
            ValueError: No parts, or parts that hold different things.
        """
        if not parts:
            raise ValueError("Features.concat: no parts to join; give at least one")
        joined = {f.name: _join(f.name, [getattr(part, f.name) for part in parts]) for f in fields(cls)}
        return cls(**joined)


class Preparation(ABC):
    """The part of an encoder that needs no weights: tokenising, decoding, resizing.

    It is small, travels to processes that have no model, and works on each row by itself, so that CPUs
    prepare rows ahead of the model, and rows of like length can be brought together.
    """

    column: str
    """The batch column that it reads."""

    @abstractmethod
    def prepare(self, batch: "Batch") -> "Batch":
        """Return columns [n, …] that hold what the network needs of each row, nothing padded.

        Raises:
            ValueError: The column is missing, or a value cannot be read; the message begins with `row 3: `.
        """

    @abstractmethod
    def collate(self, prepared: "Batch") -> Inputs:
        """Return n prepared rows as inputs, padded to the longest."""

    def lengths(self, prepared: "Batch") -> "np.ndarray | None":
        """Return int64 [n]: tokens of each row; None where all rows are alike."""
        return None


class Encoder(nn.Module):
    """Inputs to features.

    Pixels: `preprocess` returns images as uint8 0..255 or float 0..1 `[n, c, h, w]`, already resized;
    `forward` scales and normalises on the device. So inputs are in pixel units, an attack's budget means what
    it says, and what travels to the device is small. Both kinds of pixels give the same features.

    Everything in the forward pass is differentiable; the engines add `inference_mode` where no gradient is
    needed.
    """

    modality: Modality
    """What its column holds."""
    dim: int
    """Width d of the pooled features."""
    num_classes: int = 0
    """Width c of the logits; 0 where it has no classifier."""

    low_precision: bool = False
    """Whether it may compute in bfloat16, its weights converted; features are float32 all the same."""
    preparation: Preparation | None = None
    """How it prepares rows, where that can be done apart from it; `preprocess` then does only that."""

    @classmethod
    def light(cls, **options: Any) -> Preparation | None:
        """Return the preparation of an encoder with these options, without its weights; None: it has none.

        Raises:
            ValueError: What the constructor would raise for options that concern the preparation.
        """
        return None

    @property
    def column(self) -> str:
        """The batch column that `preprocess` reads: its modality's name."""
        return self.modality

    def preprocess(self, batch: "Batch") -> Inputs:
        """Turn a batch's column into inputs, on the CPU.

        Raises:
            ValueError: The column is missing, or a value cannot be read; the message names the row.
        """
        if self.preparation is None:
            raise NotImplementedError(f"{type(self).__name__} has neither a preparation nor a preprocess")
        return self.preparation.collate(self.preparation.prepare(batch))

    @abstractmethod
    def forward(self, inputs: Inputs, want: Collection[Want] = ()) -> Features:
        """Return features of n inputs, with what `want` asks for."""

    @property
    def classifier(self) -> nn.Linear | None:
        """The last layer from pooled features to logits, where there is a plain one; None otherwise."""
        return None

    @abstractmethod
    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return what a bundle needs to construct it anew without a network, the weights apart.

        Options for the constructor, and files (plain name → content: configuration, tokenizer). On loading,
        the folder with these files is passed as the constructor's keyword `assets`.
        """

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device


def check_want(want: Iterable[str], can: Collection[str], name: str) -> None:
    """Refuse a wish that an encoder cannot fulfil.

    Raises:
        ValueError: Names the wish, and what the encoder has.
    """
    for wish in want:
        if wish not in can:
            raise ValueError(f"{name}: has no {wish}; it gives pooled, {', '.join(sorted(can))}")


def _apply(change: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: change(tensor) for name, tensor in value.items()}
    return change(value)


def _join(name: str, values: list[Any]) -> Any:
    if any(value is None for value in values):
        if all(value is None for value in values):
            return None
        raise ValueError(
            f"Features.concat: some parts have {name} and some have not; ask for the same everywhere"
        )
    if isinstance(values[0], Mapping):
        if any(value.keys() != values[0].keys() for value in values):
            raise ValueError(f"Features.concat: parts name different {name}; ask for the same everywhere")
        return {key: torch.cat([value[key] for value in values]) for key in values[0]}
    if name == "tokens":
        longest = max(value.shape[1] for value in values)
        values = [nn.functional.pad(value, (0, 0, 0, longest - value.shape[1])) for value in values]
    return torch.cat(values)
