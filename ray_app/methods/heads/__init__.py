"""Heads turn features into class probabilities."""

from abc import abstractmethod
from collections.abc import Set as AbstractSet
from typing import Self

from torch import Tensor

from ray_app.methods._learned import Learned
from ray_app.methods.encoders import Features


class Head(Learned):
    """Features to class probabilities. What it learned is in registered buffers.

    Classes are 0..c-1, c being `num_classes` where the constructor was told, else the largest label seen plus
    one. A class of which no row was seen has probability 0.
    """

    needs: AbstractSet[str] = frozenset()
    """What it reads beside `features.pooled`: of layers, maps, tokens, logits."""

    @abstractmethod
    def fit(self, features: Features, labels: Tensor) -> Self:
        """Forget, then learn from n rows; labels int64 [n] in 0..c-1.

        Raises:
            ValueError: No rows, or labels of the wrong shape, type or range.
        """

    @abstractmethod
    def predict_proba(self, features: Features) -> Tensor:
        """Return float32 [n, c]; each row sums to 1.

        Raises:
            NotFittedError: Nothing was learned yet.
            ValueError: The features' width is not the fitted one.
        """
