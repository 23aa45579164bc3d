"""NMTune's terms against loops, and its network against its formula."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ray_app.methods.adapters.nmtune import NMTune
from ray_app.testing.adapters import pixels, traps


def slow_terms(f: np.ndarray, z: np.ndarray, top: int) -> tuple[float, float, float]:
    n, d = z.shape
    near = 0.0
    for i in range(n):
        gap = z[i] / np.linalg.norm(z[i]) - f[i] / np.linalg.norm(f[i])
        near += float((gap**2).sum()) / (n * d)
    C = np.cov(z, rowvar=False) / f.var(axis=0, ddof=1).mean()
    apart = sum(C[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    s = np.linalg.svd(z, compute_uv=False)
    return near, apart, float(np.mean(s[:top] / s.sum()))


@settings(derandomize=True, deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), n=st.integers(8, 20), top=st.integers(1, 4))
def test_the_terms(seed: int, n: int, top: int) -> None:
    rng = np.random.default_rng(seed)
    f, z = rng.normal(size=(n, 6)), rng.normal(size=(n, 6))
    near, apart, leading = slow_terms(f, z, top)
    got = NMTune(mse=2.0, cov=0.5, svd=0.25, top=top).terms(torch.from_numpy(f), torch.from_numpy(z))
    assert float(got) == pytest.approx(2 * near + 0.5 * apart - 0.25 * leading, rel=1e-4)


@settings(derandomize=True, deadline=None, max_examples=10)
@given(scale=st.floats(0.01, 100), seed=st.integers(0, 100))
def test_the_unit_of_features_does_not_matter(scale: float, seed: int) -> None:
    f, z = torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    adapter = NMTune()
    assert float(adapter.terms(scale * f, scale * z)) == pytest.approx(float(adapter.terms(f, z)), rel=1e-4)


def test_a_small_batch_has_the_first_term_alone() -> None:
    f, z = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0))
    near, _, _ = slow_terms(f.numpy(), z.numpy(), 5)
    assert float(NMTune().terms(f, z)) == pytest.approx(near, rel=1e-4)


def attached() -> Any:
    return NMTune(ratio=2).attach(traps())


def test_the_classifier_sees_tuned_features_and_pooled_ones_stay() -> None:
    model = attached()
    tuning = model.classifier.nmtune
    with torch.no_grad():
        tuning.scale.copy_(torch.arange(8.0))
        tuning.norm.running_mean.fill_(0.3)
    features = model(pixels(), {"logits"})
    f = features.pooled
    torch.testing.assert_close(f, traps()(pixels()).pooled)
    hidden = (tuning.up(f) - 0.3) / (1 + tuning.norm.eps) ** 0.5
    z = f + torch.arange(8.0) * tuning.down(nn.functional.relu(hidden))
    torch.testing.assert_close(features.logits, z @ model.classifier.weight.T + model.classifier.bias)


def test_a_pass_is_penalised_once_and_only_in_training() -> None:
    adapter, model = NMTune(), attached()
    model(pixels(), {"logits"})
    assert adapter.penalty(model) is None
    model.train()
    with torch.no_grad():
        model(pixels(), {"logits"})
    assert adapter.penalty(model) is None
    model(pixels(), {"logits"})
    penalty = adapter.penalty(model)
    assert isinstance(penalty, Tensor)
    penalty.backward()
    assert model.classifier.nmtune.up.weight.grad.abs().sum() > 0
    assert model.stem.weight.grad is None
    assert adapter.penalty(model) is None


def test_a_copy_can_be_made_between_pass_and_penalty() -> None:
    model = attached().train()
    model(pixels(), {"logits"})
    twin = copy.deepcopy(model)
    assert NMTune().penalty(twin) is None
    assert NMTune().penalty(model) is not None


def test_its_own_norm_learns_statistics_and_the_encoders_does_not() -> None:
    model = attached().train()
    model(pixels(), {"logits"})
    hidden = model.classifier.nmtune.up(traps()(pixels()).pooled)
    torch.testing.assert_close(model.classifier.nmtune.norm.running_mean, 0.1 * hidden.mean(0))
    assert torch.equal(model.norm.running_mean, traps().get_buffer("norm.running_mean"))


def test_a_last_batch_of_one_row_trains() -> None:
    model = attached().train()
    before = model.classifier.nmtune.norm.running_mean.clone()
    loss = model(pixels(1), {"logits"}).logits.sum() + NMTune().penalty(model)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(model.classifier.nmtune.norm.running_mean, before)


@pytest.mark.parametrize(
    ("options", "message"), [({"ratio": 0}, "ratio and top must be >= 1"), ({"svd": -1.0}, "must be >= 0")]
)
def test_wrong_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"nmtune: .*{message}"):
        NMTune(**options)
