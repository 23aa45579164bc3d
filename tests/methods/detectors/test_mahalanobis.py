"""Mahalanobis against a float64 loop in NumPy, pytorch-ood, and its own formulas."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ray_app.errors import NotFittedError
from ray_app.methods.detectors.mahalanobis import Mahalanobis
from ray_app.methods.encoders import Encoder, Features


def draw(n: int = 300, d: int = 12, c: int = 4, seed: int = 0, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Correlated rows around class means."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) + np.eye(d)
    labels = np.concatenate([np.arange(c), rng.integers(c, size=n - c)])
    means = rng.normal(scale=3, size=(c, d))
    x = rng.normal(size=(n, d)) @ mix + means[labels] + offset
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels)


def brute_force(train: Tensor, labels: Tensor, test: Tensor, shrinkage: float = 1e-6) -> np.ndarray:
    """The definition, row by row, in float64."""
    x, y, t = train.double().numpy(), labels.numpy(), test.double().numpy()
    means = {c: x[y == c].mean(0) for c in np.unique(y)}
    centred = np.stack([row - means[c] for row, c in zip(x, y, strict=True)])
    covariance = centred.T @ centred / len(x)
    d = len(covariance)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)
    precision = np.linalg.inv(covariance)
    return np.array([min((row - m) @ precision @ (row - m) for m in means.values()) for row in t])


@pytest.mark.parametrize(("d", "offset"), [(5, 0.0), (40, 0.0), (150, 0.0), (300, 0.0), (12, 1e4)])
def test_agrees_with_brute_force(d: int, offset: float) -> None:
    train, labels = draw(n=700, d=d, offset=offset)
    test, _ = draw(n=200, d=d, seed=1, offset=offset)
    detector = Mahalanobis(layers="last", combine="last").fit(Features(train), labels)
    np.testing.assert_allclose(detector.score(Features(test)), brute_force(train, labels, test), rtol=1e-4)


def test_tight_classes_far_apart_keep_their_digits() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(scale=1e3, size=(3, 20))
    labels = np.arange(600) % 3
    rows = torch.from_numpy((rng.normal(size=(600, 20)) * 0.01 + means[labels]).astype(np.float32))
    detector = Mahalanobis(layers="last", combine="last").fit(Features(rows), torch.from_numpy(labels))
    expected = brute_force(rows, torch.from_numpy(labels), rows)
    np.testing.assert_allclose(detector.score(Features(rows)), expected, rtol=1e-4)


def test_agrees_with_pytorch_ood() -> None:
    from pytorch_ood.detector import Mahalanobis as Theirs

    train, labels = draw()
    test, _ = draw(seed=1)
    theirs = Theirs(None).fit_features(train, labels).predict_features(test)
    ours = (
        Mahalanobis(layers="last", combine="last", shrinkage=0.0)
        .fit(Features(train), labels)
        .score(Features(test))
    )
    # Theirs is half the distance, with the summed scatter in place of the covariance.
    np.testing.assert_allclose(ours / (2 * len(train)), theirs, rtol=1e-4)


def layered(n: int, seed: int) -> tuple[Features, Tensor]:
    a, labels = draw(n, d=6, seed=seed)
    b, _ = draw(n, d=9, seed=seed + 100)
    return Features(pooled=b, layers={"stages.0": a, "stages.1": b}), labels


def test_combinations_follow_their_formulas() -> None:
    train, labels = layered(300, 0)
    test, _ = layered(50, 1)
    by_layer = [brute_force(train.layers[name], labels, test.layers[name]) for name in train.layers]
    made = {how: Mahalanobis(combine=how).fit(train, labels) for how in ("sum_log", "last", "logistic")}
    np.testing.assert_allclose(made["sum_log"].score(test), np.log(by_layer).sum(0), rtol=1e-4)
    np.testing.assert_allclose(made["last"].score(test), by_layer[1], rtol=1e-4)
    abnormal = test.map(lambda value: value * 2)
    combined = made["logistic"].fit_combiner(test, abnormal)
    weight = combined.combiner.numpy()
    np.testing.assert_allclose(
        combined.score(test), weight[:-1] @ by_layer + weight[-1], rtol=1e-3, atol=1e-4
    )
    assert combined.learns_combination
    assert (combined.score(abnormal) > combined.score(test)).float().mean() > 0.9


def test_logistic_without_weights_says_so() -> None:
    train, labels = layered(50, 0)
    with pytest.raises(NotFittedError, match="fit_combiner"):
        Mahalanobis(combine="logistic").fit(train, labels).score(train)


def test_new_classes_are_learned_from_sums() -> None:
    train, labels = draw(c=6)
    old = labels < 4
    grown = Mahalanobis(layers="last").fit(Features(train[old]), labels[old])
    before = grown.score(Features(train[~old]))
    grown.partial_fit(Features(train[~old]), labels[~old])
    at_once = Mahalanobis(layers="last").fit(Features(train), labels)
    torch.testing.assert_close(
        grown.score(Features(train)), at_once.score(Features(train)), rtol=1e-5, atol=1e-5
    )
    assert (grown.score(Features(train[~old])) < before).all()


def test_oas_equals_scikit_learn() -> None:
    from sklearn.covariance import OAS

    train, labels = draw(n=30, d=20, c=1)
    detector = Mahalanobis(layers="last", combine="last", shrinkage="oas").fit(Features(train), labels)
    reference = OAS().fit(train.double().numpy())
    np.testing.assert_allclose(
        detector.score(Features(train)), reference.mahalanobis(train.double().numpy()), rtol=1e-4
    )


class Squash(Encoder):
    """tanh of a fixed linear map of 4 x 4 pixels, with its input as a layer."""

    modality = "image"
    dim = 5

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(16, 5, generator=generator))

    def preprocess(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def forward(self, inputs: Any, want: Collection[str] = ()) -> Features:
        pixels = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
        pooled = torch.tanh(pixels.flatten(1) @ self.weight)
        layers = {"first": pixels.flatten(1) * 2} if "layers" in want else {}
        return Features(pooled, layers=layers, inputs=inputs)

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        raise NotImplementedError


def test_noise_steps_towards_normal_in_each_layer() -> None:
    encoder = Squash()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(40, 1, 4, 4, generator=generator)
    labels = torch.arange(40) % 2
    features = encoder(pixels, ("layers",)).detach()
    noise = 0.01
    detector = Mahalanobis(noise=noise, encoder=encoder).fit(features, labels)
    assert detector.needs == {"layers", "input_grad"}
    plain = Mahalanobis().fit(features, labels)
    with torch.inference_mode():
        moved = detector.distances(features)
        before = plain.distances(features)
    assert (moved < before).float().mean() > 0.95
    # The first layer is linear in the pixels, so its step can be written down.
    mean = {c: (features.layers["first"][labels == c]).double().mean(0) for c in (0, 1)}
    whole = torch.stack(
        [row.double() - mean[int(c)] for row, c in zip(features.layers["first"], labels, strict=True)]
    )
    covariance = whole.T @ whole / 40
    covariance = covariance * (1 - 1e-6) + 1e-6 * covariance.trace() / 16 * torch.eye(16)
    precision = torch.linalg.inv(covariance)
    row = features.layers["first"][0].double()
    nearest = min(mean.values(), key=lambda m: float((row - m) @ precision @ (row - m)))
    step = row - 2 * noise * (precision @ (row - nearest)).sign()
    expected = min(float((step - m) @ precision @ (step - m)) for m in mean.values())
    assert float(moved[0, 0]) == pytest.approx(expected, rel=1e-4)


def test_encoder_is_no_part_of_the_state() -> None:
    train, labels = draw()
    detector = Mahalanobis(layers="last", noise=0.1, encoder=Squash()).fit(Features(train), labels)
    assert set(detector.state_dict()) == {"counts", "layer_names", "combiner", "means_0", "scatter_0"}
    assert not list(detector.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 0.1}, "needs the encoder"),
        ({"noise": -1}, "pixel units"),
        ({"layers": "first"}, "list of names"),
        ({"layers": []}, "empty"),
        ({"combine": "mean"}, "sum_log, logistic or last"),
        ({"shrinkage": 2}, "oas"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mahalanobis(**options)


def test_missing_layer_is_named() -> None:
    train, labels = layered(20, 0)
    with pytest.raises(ValueError, match=r"lack layer 'x' \(layers: stages.0, stages.1\)"):
        Mahalanobis(layers=["x"]).fit(train, labels)
    with pytest.raises(ValueError, match="layers: last"):
        Mahalanobis().fit(Features(train.pooled), labels)


def test_merging_other_layers_is_refused() -> None:
    train, labels = layered(20, 0)
    other = Mahalanobis(layers="last").fit(train, labels)
    with pytest.raises(ValueError, match="cannot merge"):
        Mahalanobis().fit(train, labels).merge(other)
