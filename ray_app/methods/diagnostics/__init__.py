"""Diagnostics: a dataset or a model to a small report of numbers."""

from abc import ABC, abstractmethod
from typing import Any


class Diagnostic(ABC):
    """Measures, and decides nothing. Its inputs are its own; its answer is flat and machine-readable."""

    @abstractmethod
    def report(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return numbers by name, or lists of equal length that make a table."""
