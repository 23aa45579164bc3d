"""Preprocessing window: the preprocessings whose feature density is near that of plain tokens.

    low * density_base <= density <= high * density_base

Classifiers were found to be best near the density of plain tokens and to fall off on both sides, so that
set-ups outside of the window need not be trained.

Reference: J. Eronen, M. Ptaszynski, F. Masui, A. Smywiński-Pohl, G. Leliwa, M. Wroczynski, "Improving
    Classifier Training Efficiency for Automatic Cyberbullying Detection with Feature Density", IPM 2021,
    https://arxiv.org/abs/2111.01689
Cost: O(preprocessings).
"""

from collections.abc import Mapping, Sequence
from typing import Any


class PreprocessingWindow:
    """Prunes a sweep over preprocessings before it starts; takes the table of diagnostics/feature_density.

    Args:
        low: Least density in units of the base's.
        high: Largest density in units of the base's.
        base: Name of the preprocessing to compare with.
    """

    def __init__(self, *, low: float = 0.5, high: float = 2.0, base: str = "tokens") -> None:
        if not 0 <= low <= high:
            raise ValueError(
                f"preprocessing_window: got low={low!r} and high={high!r}; expected 0 <= low <= high"
            )
        self.low = low
        self.high = high
        self.base = base

    def choose(self, report: Mapping[str, Sequence[Any]]) -> list[str]:
        """Return the names of the preprocessings that are worth trying, in the table's order.

        Args:
            report: A table with the columns `name` and `density`.

        Raises:
            ValueError: The base is not in the table.
        """
        densities = dict(zip(report["name"], report["density"], strict=True))
        if self.base not in densities:
            raise ValueError(
                f"preprocessing_window: no {self.base!r} to compare with (there are: {', '.join(densities)})"
            )
        base = densities[self.base]
        return [name for name, value in densities.items() if self.low * base <= value <= self.high * base]
