"""Adapters decide which parameters train, and how."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder


class Adapter(ABC):
    """Attach to a model before training, merge into the plain architecture after it."""

    @abstractmethod
    def attach(self, model: "Encoder") -> "Encoder":
        """Return the model with `requires_grad` set on exactly what trains."""

    @abstractmethod
    def merge(self, model: "Encoder") -> "Encoder":
        """Return a model of the plain architecture with equal outputs (to 1e-5)."""
