"""Architectures that timm and transformers lack, and what any model may return to an objective."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class ModelOutput:
    """What a model returned. Objectives read what they need; nothing else is set."""

    logits: Tensor | None = None
    """[n, c], or [n, t, c] for tokens."""
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    """Further heads by name."""
    distances: Tensor | None = None
    """[n, p], to prototypes."""
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    """Layer → [n, c, h, w]."""
    reconstruction: Tensor | None = None
    """In the inputs' shape."""
    hidden: Tensor | None = None
    """[n, t, d], or pooled [n, d]."""
