"""Sample efficiency: test error of heads by the number of labelled rows, and where one overtakes another.

For every size and repeat one subset of the training rows is drawn, with at least one row of each class, and
all heads are fitted on that same subset and judged on the same test rows.

    needed = least size in `sizes` with mean error <= target
    growth = slope of log needed against log d: 0 where d does not matter, 1 where needed is proportional to d

Reference: C. Zheng, G. Wu, F. Bao, Y. Cao, C. Li, J. Zhu, "Revisiting Discriminative vs. Generative
    Classifiers: Theory and Implications", ICML 2023, https://arxiv.org/abs/2302.02334
Cost: sizes times repeats times heads fits.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ray_app.methods.diagnostics import Diagnostic
from ray_app.methods.encoders import Features
from ray_app.methods.heads import Head
from ray_app.metrics.classification import accuracy


class SampleEfficiency(Diagnostic):
    """Tells which head to use for the number of labels that there is.

    Args:
        sizes: Numbers of labelled rows, ascending.
        repeats: Subsets for each size.
        seed: Of the subsets.
    """

    def __init__(
        self, *, sizes: Sequence[int] = (20, 50, 100, 200, 500), repeats: int = 5, seed: int = 0
    ) -> None:
        if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
            raise ValueError(f"sample_efficiency: sizes must ascend from 1 or more, got {sizes!r}")
        if repeats < 1:
            raise ValueError(f"sample_efficiency: repeats must be >= 1, got {repeats!r}; try 5")
        self.sizes = list(sizes)
        self.repeats = repeats
        self.seed = seed

    def report(
        self,
        heads: Mapping[str, Callable[[], Head]],
        train: tuple[Features, Tensor],
        test: tuple[Features, Tensor],
    ) -> dict[str, list[str] | list[int] | list[float]]:
        """Return a table: columns `head`, `size`, `repeat` and `error` (in 0..1), a row for each fit.

        Args:
            heads: Name → what makes a fresh head.
            train: Features [n] and labels int64 [n]; subsets are drawn from them.
            test: Features and labels to judge by.

        Raises:
            ValueError: A size is smaller than the number of classes, or larger than n.
        """
        self._check(train[1])
        table: dict[str, list[str] | list[int] | list[float]] = {}
        rows = [
            (name, size, repeat, self._error(make, train, test, size, repeat))
            for size in self.sizes
            for repeat in range(self.repeats)
            for name, make in heads.items()
        ]
        for column, values in zip(("head", "size", "repeat", "error"), zip(*rows, strict=True), strict=True):
            table[column] = list(values)
        return table

    def needed(
        self,
        make: Callable[[], Head],
        train: tuple[Features, Tensor],
        test: tuple[Features, Tensor],
        target: float,
    ) -> int | None:
        """Return the least size whose error, averaged over repeats, is at most the target; None: none is.

        Larger sizes than that are not tried. The subsets are those of `report`.

        Args:
            make: What makes a fresh head.
            train: See report.
            test: See report.
            target: Error in 0..1.

        Raises:
            ValueError: See report.
        """
        self._check(train[1])
        for size in self.sizes:
            errors = [self._error(make, train, test, size, repeat) for repeat in range(self.repeats)]
            if float(np.mean(errors)) <= target:
                return size
        return None

    @staticmethod
    def growth(dims: Sequence[int], needed: Sequence[int]) -> float:
        """Return the exponent a of needed ~ d^a that fits best in the logarithms.

        Args:
            dims: Numbers of features, at least two different ones.
            needed: Rows needed at each.
        """
        return float(np.polyfit(np.log(dims), np.log(needed), 1)[0])

    @staticmethod
    def crossing(table: Mapping[str, Sequence[Any]], first: str, second: str) -> int | None:
        """Return the least size from which on `second` errs no more than `first`, on average; None: never.

        Args:
            table: What `report` returned.
            first: The head that is ahead with few labels.
            second: The head that may overtake it.
        """
        head, size, error = (np.asarray(table[column]) for column in ("head", "size", "error"))
        found = None
        for one in sorted(set(size.tolist()), reverse=True):
            a, b = (error[(head == name) & (size == one)].mean() for name in (first, second))
            if b > a:
                break
            found = int(one)
        return found

    def _check(self, labels: Tensor) -> None:
        classes = len(labels.unique())
        if self.sizes[0] < classes or self.sizes[-1] > len(labels):
            raise ValueError(
                f"sample_efficiency: sizes {self.sizes[0]}..{self.sizes[-1]}, {classes} classes,"
                f" {len(labels)} rows; the least must hold every class, the largest be there"
            )

    def _error(
        self,
        make: Callable[[], Head],
        train: tuple[Features, Tensor],
        test: tuple[Features, Tensor],
        size: int,
        repeat: int,
    ) -> float:
        """The test error of a head fitted on the subset of a size and repeat."""
        features, labels = train
        rng = np.random.default_rng((self.seed, size, repeat))
        chosen = torch.from_numpy(_subset(labels.cpu().numpy(), size, rng))
        proba = make().fit(features[chosen], labels[chosen]).predict_proba(test[0]).cpu().numpy()
        return 1 - accuracy(proba, test[1].cpu().numpy())


def _subset(labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Indices [size], one row of each class first, the rest by chance."""
    order = rng.permutation(len(labels))
    _, first = np.unique(labels[order], return_index=True)
    rest = np.delete(order, first)
    return np.concatenate([order[first], rest[: size - len(first)]])
