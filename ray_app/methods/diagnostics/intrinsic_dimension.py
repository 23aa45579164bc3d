"""Intrinsic dimension: how many numbers have to train to get most of what full fine-tuning gets.

    d90 = the smallest d at which the metric is at least 0.9 times that of full fine-tuning

Each d is tried with several learning rates, of which the best counts, and several seeds, whose mean counts.

Reference: C. Li, H. Farkhoor, R. Liu, J. Yosinski, "Measuring the Intrinsic Dimension of Objective
    Landscapes", ICLR 2018, https://arxiv.org/abs/1804.08838; A. Aghajanyan, S. Gupta, L. Zettlemoyer,
    "Intrinsic Dimensionality Explains the Effectiveness of Language Model Fine-Tuning", ACL 2021,
    https://arxiv.org/abs/2012.13255
Departure: between two tried dimensions nothing is interpolated; the curve is reported whole.
Cost: dims x lrs x seeds trainings.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ray_app.methods.diagnostics import Diagnostic


class IntrinsicDimension(Diagnostic):
    """Compares checkpoints by how little has to change for a task; trains with adapters/intrinsic.

    Args:
        dims: Which d to try, ascending.
        lrs: Learning rates to try at each.
        seeds: Of projection and training.
        fraction: Share of the full metric that is asked for.
    """

    def __init__(
        self, *, dims: Sequence[int], lrs: Sequence[float], seeds: Sequence[int] = (0,), fraction: float = 0.9
    ) -> None:
        if not dims or list(dims) != sorted(set(dims)) or dims[0] < 1:
            raise ValueError(f"intrinsic_dimension: dims must ascend from 1 or more, got {list(dims)}")
        if not lrs or not seeds:
            raise ValueError("intrinsic_dimension: give at least one of lrs and of seeds")
        if not 0 < fraction <= 1:
            raise ValueError(f"intrinsic_dimension: fraction must be in 0..1, got {fraction!r}; 0.9 is usual")
        self.dims = list(dims)
        self.lrs = list(lrs)
        self.seeds = list(seeds)
        self.fraction = fraction

    def report(self, train: Callable[[int, float, int], float], full: float) -> dict[str, Any]:
        """Return the curve and where it reaches the share of `full` for the first time.

        Args:
            train: d, learning rate, seed → the metric after training so many numbers; higher is better.
            full: The metric of full fine-tuning, of this network or of one to compare with.

        Returns:
            `dim`, `value` and `lr` (the best one), lists of equal length; `full`; `dimension`, inf where no d
            that was tried is enough.
        """
        values, best = [], []
        for d in self.dims:
            means = [float(np.mean([train(d, lr, seed) for seed in self.seeds])) for lr in self.lrs]
            values.append(max(means))
            best.append(self.lrs[int(np.argmax(means))])
        return {
            "dim": self.dims,
            "value": values,
            "lr": best,
            "full": full,
            "dimension": self.reached(values, full),
        }

    def reached(self, values: Sequence[float], full: float) -> float:
        """Return the first of `dims` whose value is at least the share of `full`; inf: none is."""
        enough = (d for d, value in zip(self.dims, values, strict=True) if value >= self.fraction * full)
        return float(next(enough, np.inf))
