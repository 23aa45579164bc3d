"""Maximum softmax: how little the classifier believes in its own answer.

    score(x) = 1 - max_c softmax(z(x) / temperature)_c       in [0, 1 - 1/c]

Reference: D. Hendrycks, K. Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples
    in Neural Networks", ICLR 2017, https://arxiv.org/abs/1610.02136
Departure: 1 - p instead of -p, computed without cancellation, so that confident rows still differ.
Cost: O(n c), no state.
"""

import torch
from torch import Tensor

from ray_app.methods.detectors._logits import LogitDetector
from ray_app.methods.encoders import Features


class MaxSoftmax(LogitDetector):
    """The baseline that every other detector must beat; blind where the classifier is confidently wrong.

    Args:
        temperature: Divides the logits; high ones make the score depend on their differences (ODIN).
    """

    name = "max_softmax"

    def score(self, features: Features) -> Tensor:
        """Return float32 [n], higher is more abnormal, for features.logits [n, c].

        Raises:
            ValueError: The features have no logits.
        """
        return -torch.expm1(torch.log_softmax(self._logits(features), 1).amax(1)).float()
