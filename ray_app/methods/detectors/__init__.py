"""Detectors turn features into abnormality: one number a row, higher is more abnormal."""

from abc import abstractmethod
from collections.abc import Set as AbstractSet
from typing import Self

from torch import Tensor

from ray_app.methods._learned import Learned
from ray_app.methods.encoders import Features


class Detector(Learned):
    """Features to abnormality. What it learned is in registered buffers.

    A detector whose `needs` holds `input_grad` takes the encoder as the constructor's keyword `encoder` and
    reads `features.inputs`; the encoder is not part of its state.
    """

    needs: AbstractSet[str] = frozenset()
    """What it reads beside `features.pooled`: of layers, maps, tokens, logits, input_grad."""

    @abstractmethod
    def fit(self, features: Features, labels: Tensor | None = None) -> Self:
        """Forget, then learn what is normal from n rows; labels int64 [n], where the method uses them.

        Raises:
            ValueError: No rows, or labels that are needed and missing, or of the wrong shape or range.
        """

    @abstractmethod
    def score(self, features: Features) -> Tensor:
        """Return float32 [n], higher is more abnormal; a row's score does not depend on the other rows.

        Raises:
            NotFittedError: Nothing was learned yet.
            ValueError: The features' width is not the fitted one, or lack what `needs` names.
        """


class Combinable(Detector):
    """A detector with several partial scores whose weights can be learned from a few abnormal rows."""

    @property
    @abstractmethod
    def learns_combination(self) -> bool:
        """Whether its options ask for learned weights; fit_combiner is then called after fit."""

    @abstractmethod
    def fit_combiner(self, normal: Features, abnormal: Features) -> Self:
        """Learn how to weigh the partial scores; neither set may be one that is tested on later."""
