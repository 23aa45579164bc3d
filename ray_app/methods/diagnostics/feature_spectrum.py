"""Feature spectrum: how evenly singular values of features are spread, and how much the first dominates.

    p_i = s_i / sum s,    s: singular values of the features [n, d]
    sve  = -sum p_i log p_i        singular value entropy, in nats, 0..log min(n, d)
    lsvr = -log p_1                largest singular value ratio, in nats; larger: the first dominates less
    effective_rank = exp(sve)      in 1..min(n, d)

Noise in pre-training labels raises sve and lsvr.

Reference: H. Chen, J. Wang, A. Shah et al., "Understanding and Mitigating the Label Noise in Pre-training on
    Downstream Tasks", ICLR 2024, https://arxiv.org/abs/2309.17002; O. Roy, M. Vetterli, "The effective rank:
    a measure of effective dimensionality", EUSIPCO 2007
Cost: one SVD, O(n d min(n, d)).
"""

import torch

from ray_app.methods._checks import finite, matrix, some
from ray_app.methods.diagnostics import Diagnostic
from ray_app.methods.encoders import Features


class FeatureSpectrum(Diagnostic):
    """Compares encoders on the same rows: values depend on how many there are."""

    def report(self, features: Features) -> dict[str, float]:
        """Return `sve`, `lsvr` and `effective_rank` of features.pooled [n, d], as they are: not centred.

        Raises:
            ValueError: No rows, rows that are not finite, or nothing but zeros.
        """
        x = finite(matrix(features.pooled.detach(), "feature_spectrum"), "feature_spectrum")
        some(len(x), "feature_spectrum")
        values = torch.linalg.svdvals(x.double())
        if not values.sum() > 0:
            raise ValueError(
                "feature_spectrum: all features are zero; is the encoder's output the right one?"
            )
        p = values / values.sum()
        sve = float(torch.special.entr(p).sum())
        return {"sve": sve, "lsvr": float(-p[0].log()), "effective_rank": float(torch.tensor(sve).exp())}
