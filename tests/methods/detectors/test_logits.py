"""Detectors that read logits, against SciPy and pytorch-ood."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from ray_app.methods.detectors.energy import Energy
from ray_app.methods.detectors.max_softmax import MaxSoftmax
from ray_app.methods.encoders import Features

LOGITS = torch.from_numpy(np.random.default_rng(0).normal(scale=4, size=(50, 7)).astype(np.float32))
FEATURES = Features(torch.zeros(50, 2), logits=LOGITS)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_against_scipy(temperature: float) -> None:
    z = LOGITS.double().numpy() / temperature
    np.testing.assert_allclose(
        MaxSoftmax(temperature=temperature).score(FEATURES), 1 - softmax(z, 1).max(1), rtol=1e-5
    )
    np.testing.assert_allclose(
        Energy(temperature=temperature).score(FEATURES), -temperature * logsumexp(z, 1), rtol=1e-5
    )


def test_against_pytorch_ood() -> None:
    from pytorch_ood.detector import EnergyBased
    from pytorch_ood.detector import MaxSoftmax as Theirs

    # Theirs is -p where ours is 1 - p.
    np.testing.assert_allclose(MaxSoftmax().score(FEATURES) - 1, Theirs.score(LOGITS), atol=1e-6)
    np.testing.assert_allclose(Energy().score(FEATURES), EnergyBased.score(LOGITS), rtol=1e-5)


def test_confident_rows_still_differ() -> None:
    logits = torch.tensor([[20.0, 0.0], [30.0, 0.0]])
    first, second = MaxSoftmax().score(Features(torch.zeros(2, 1), logits=logits)).tolist()
    assert first > second > 0


def test_without_logits_it_says_what_to_want() -> None:
    with pytest.raises(ValueError, match="want logits"):
        Energy().score(Features(torch.zeros(2, 1)))
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        MaxSoftmax(temperature=0)
