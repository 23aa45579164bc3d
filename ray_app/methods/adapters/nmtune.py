"""NMTune: a small network tunes frozen features against what noisy pre-training labels did to them.

    z = f + scale * MLP(f),    MLP: Linear(d, ratio d), batch norm, ReLU, Linear(ratio d, d);    scale [d]
    loss = cross-entropy of the classifier on z + mse * MSE(z / |z|, f / |f|) + cov * L_cov - svd * L_svd
    L_cov = 1/d sum over i != j of C_ij^2,    C the covariance of the batch's z
    L_svd = mean over the `top` largest of s_i / sum s,    s the singular values of the batch's z

The first term keeps what was learned before, the second takes correlation out, the third makes the leading
directions stronger. The network, scale (1 at the start) and the classifier train; the encoder does not, so
features alone would do.

Reference: H. Chen, J. Wang, A. Shah et al., "Understanding and Mitigating the Label Noise in Pre-training on
    Downstream Tasks", ICLR 2024, https://arxiv.org/abs/2309.17002
Departure: covariance in units of the batch's mean variance of f: it grows with the fourth power of the
    features' scale, which encoders do not share. The mean over rows and dimensions is taken in MSE. Batches
    of fewer than 8 rows have the first term only; a single row is normalised by running statistics.
Cost: 2 ratio d^2 numbers, at training and after it: it is not linear and cannot be merged.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ray_app.methods.adapters import Adapter, train_classifier

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder

_FEWEST = 8


class NMTune(Adapter):
    """Use it in a linear probe's place where pre-training labels are suspect.

    It changes what the classifier sees; `pooled` features, and heads and detectors on them, are as they were.

    Args:
        ratio: Width of the hidden layer, in units of the features'.
        mse: Weight of staying near the features' directions.
        cov: Weight of the covariance term.
        svd: Weight of the leading singular values.
        top: How many singular values lead.
        seed: Of the network's weights.
    """

    merges = False

    def __init__(
        self,
        *,
        ratio: int = 4,
        mse: float = 1.0,
        cov: float = 0.04,
        svd: float = 0.001,
        top: int = 5,
        seed: int = 0,
    ) -> None:
        if ratio < 1 or top < 1:
            raise ValueError(f"nmtune: ratio and top must be >= 1, got {ratio!r} and {top!r}")
        if min(mse, cov, svd) < 0:
            raise ValueError(f"nmtune: mse, cov and svd must be >= 0, got {mse!r}, {cov!r}, {svd!r}")
        self.ratio = ratio
        self.mse = mse
        self.cov = cov
        self.svd = svd
        self.top = top
        self.seed = seed

    def _check(self, model: "Encoder") -> None:
        if model.classifier is None:
            raise ValueError("nmtune: the model has no classifier of one linear layer; give it num_classes")

    def _insert(self, model: "Encoder") -> None:
        classifier: Any = model.classifier
        generator = torch.Generator().manual_seed(self.seed)
        tuning = _Tuning(classifier.in_features, self.ratio, generator)
        tuning.train(model.training).to(classifier.weight.device)
        classifier.nmtune = tuning
        # A plain function, so that copies of the model have it too.
        classifier.register_forward_pre_hook(_tune)
        train_classifier(model)

    def penalty(self, model: "Encoder") -> Tensor | None:
        """Return the three terms of the latest pass in train mode and forget it; None: there was none."""
        classifier: Any = model.classifier
        passed, classifier.nmtune.passed = classifier.nmtune.passed, None
        return self.terms(*passed) if passed is not None else None

    def terms(self, features: Tensor, tuned: Tensor) -> Tensor:
        """Return the weighted sum of the three terms, a scalar.

        Args:
            features: Float [n, d], as the encoder gives them.
            tuned: Float [n, d].
        """
        f, z = features.float(), tuned.float()
        near = nn.functional.mse_loss(nn.functional.normalize(z, dim=1), nn.functional.normalize(f, dim=1))
        total = self.mse * near
        if len(z) < _FEWEST:
            return total
        # Singular values in full precision, whatever the pass around it.
        with torch.autocast(z.device.type, enabled=False):
            unit = f.detach().var(dim=0).mean().clamp(min=1e-12)
            centred = z - z.mean(0)
            covariance = centred.T @ centred / (len(z) - 1) / unit
            apart = (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]
            values = torch.linalg.svdvals(z)
            leading = (values[: self.top] / values.sum().clamp(min=1e-12)).mean()
        return total + self.cov * apart - self.svd * leading


class _Tuning(nn.Module):
    """[n, d] → [n, d]."""

    def __init__(self, dim: int, ratio: int, generator: torch.Generator) -> None:
        super().__init__()
        self.up = nn.utils.skip_init(nn.Linear, dim, ratio * dim)
        self.norm = nn.BatchNorm1d(ratio * dim)
        self.down = nn.utils.skip_init(nn.Linear, ratio * dim, dim)
        self.scale = nn.Parameter(torch.ones(dim))
        for layer in (self.up, self.down):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        # In __dict__: a copy of the model must not hold on to a pass, nor can it copy one.
        self.passed: tuple[Tensor, Tensor] | None = None

    def forward(self, f: Tensor) -> Tensor:
        x = f.to(self.scale.dtype)
        self.norm.train(self.training and len(x) > 1)
        z = x + self.scale * self.down(nn.functional.relu(self.norm(self.up(x))))
        if self.training and torch.is_grad_enabled():
            self.passed = (x, z)
        return z.to(f.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "passed": None}


def _tune(classifier: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return classifier.nmtune(inputs[0]), *inputs[1:]
