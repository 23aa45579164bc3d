"""Energy: how little all logits together speak for any class.

    score(x) = -temperature * log sum_c exp(z_c(x) / temperature)      in (-inf, inf), in logits

Reference: W. Liu, X. Wang, J. Owens, Y. Li, "Energy-based Out-of-distribution Detection", NeurIPS 2020,
    https://arxiv.org/abs/2010.03759
Cost: O(n c), no state.
"""

import torch
from torch import Tensor

from ray_app.methods.detectors._logits import LogitDetector
from ray_app.methods.encoders import Features


class Energy(LogitDetector):
    """As cheap as max_softmax; keeps the logits' size, which softmax throws away.

    Args:
        temperature: Divides the logits, and multiplies the result.
    """

    name = "energy"

    def score(self, features: Features) -> Tensor:
        """Return float32 [n], higher is more abnormal, for features.logits [n, c].

        Raises:
            ValueError: The features have no logits.
        """
        return (-self.temperature * torch.logsumexp(self._logits(features), 1)).float()
