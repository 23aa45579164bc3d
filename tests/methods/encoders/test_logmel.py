"""Log-mel statistics against a slow DFT written out in NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.signal import get_window

from ray_app.methods.encoders.logmel import LogMel
from ray_app.testing.encoders import check_encoder

RNG = np.random.default_rng(0)
LENGTHS = [8000, 400, 399, 1, 4321]


def sounds(*lengths: int) -> np.ndarray:
    column = np.empty(len(lengths), dtype=object)
    column[:] = [RNG.standard_normal(length).astype(np.float32) * 0.1 for length in lengths]
    return column


BATCH = {"row_id": np.arange(5).astype(str), "audio": sounds(*LENGTHS)}


def slow(
    waveform: np.ndarray, *, rate: int, window: int, hop: int, bands: int, fmin: float, fmax: float
) -> np.ndarray:
    """Float64 [f, bands], frame by frame, frequency by frequency, corner by corner."""
    x = np.pad(waveform.astype(np.float64), (0, max(0, window - len(waveform))))
    hann = get_window("hann", window)
    turns = np.exp(-2j * np.pi * np.outer(np.arange(window // 2 + 1), np.arange(window)) / window)
    power = [
        np.abs(turns @ (x[start : start + window] * hann)) ** 2
        for start in range(0, len(x) - window + 1, hop)
    ]

    def mel(f: float) -> float:
        return 3 * f / 200 if f < 1000 else 15 + 27 * np.log(f / 1000) / np.log(6.4)

    def hertz(m: float) -> float:
        return 200 * m / 3 if m < 15 else 1000 * np.exp((m - 15) * np.log(6.4) / 27)

    corners = [hertz(m) for m in np.linspace(mel(fmin), mel(fmax), bands + 2)]
    filters = np.zeros((bands, window // 2 + 1))
    for band in range(bands):
        left, centre, right = corners[band : band + 3]
        for k in range(window // 2 + 1):
            f = k * rate / window
            if left < f <= centre:
                filters[band, k] = (f - left) / (centre - left)
            elif centre < f < right:
                filters[band, k] = (right - f) / (right - centre)
        filters[band] *= 2 / (right - left)
    return 10 * np.log10(np.maximum(np.array(power) @ filters.T, 1e-10))


@pytest.mark.parametrize(
    "options", [{}, {"window": 256, "hop": 100, "bands": 10, "fmax": 4000.0}, {"sample_rate": 8000}]
)
def test_keeps_the_contract(options: dict[str, Any]) -> None:
    check_encoder(lambda: LogMel(**options), BATCH)


@pytest.mark.parametrize(
    ("rate", "window", "hop", "bands", "fmin"), [(16_000, 400, 160, 40, 50.0), (8000, 250, 250, 23, 0.0)]
)
def test_equals_a_slow_dft(rate: int, window: int, hop: int, bands: int, fmin: float) -> None:
    encoder = LogMel(sample_rate=rate, window=window, hop=hop, bands=bands, fmin=fmin)
    features = encoder(encoder.preprocess(BATCH), {"tokens"})
    for row, waveform in enumerate(BATCH["audio"]):
        expected = slow(waveform, rate=rate, window=window, hop=hop, bands=bands, fmin=fmin, fmax=rate / 2)
        assert features.lengths[row] == len(expected)
        # Float32 against float64, in dB.
        np.testing.assert_allclose(features.tokens[row, : len(expected)], expected, atol=2e-2)
        pooled = np.concatenate([expected.mean(0), expected.std(0)])
        np.testing.assert_allclose(features.pooled[row], pooled, atol=2e-2)


def test_a_tone_is_loudest_in_its_band_whatever_its_rate() -> None:
    encoder = LogMel(bands=32)
    batch = {"audio": np.empty(3, dtype=object), "sample_rate": np.array([8000, 16_000, 44_100])}
    for row, rate in enumerate(batch["sample_rate"]):
        batch["audio"][row] = np.sin(2 * np.pi * 1500 * np.arange(rate) / rate)
    mean = encoder(encoder.preprocess(batch)).pooled[:, :32]
    centres = encoder.filters.argmax(0) * 40
    assert (centres[mean.argmax(1)] - 1500).abs().max() < 100
    assert (mean[0] - mean[2])[mean[0] > 0].abs().max() < 0.5


def test_ten_times_the_samples_are_twenty_decibels() -> None:
    encoder = LogMel()
    quiet, loud = sounds(5000), sounds(0)
    loud[0] = quiet[0] * 10
    low, high = (encoder(encoder.preprocess({"audio": column})).pooled for column in (quiet, loud))
    torch.testing.assert_close(high[:, :64] - low[:, :64], torch.full((1, 64), 20.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(high[:, 64:], low[:, 64:], atol=1e-3, rtol=0)


def test_gradients_reach_the_samples() -> None:
    encoder = LogMel()
    inputs = encoder.preprocess(BATCH)
    inputs["waveform"].requires_grad_()
    encoder(inputs).pooled.sum().backward()
    assert torch.isfinite(inputs["waveform"].grad).all()
    assert inputs["waveform"].grad.abs().sum() > 0


@pytest.mark.parametrize("value", [None, "text", np.array([np.nan, 1.0]), np.array([]), b"no sound"])
def test_what_is_no_sound_is_named(value: Any) -> None:
    batch = {"audio": sounds(500, 500)}
    batch["audio"][1] = value
    with pytest.raises(ValueError, match=r"^row 1: "):
        LogMel().preprocess(batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fmin": 9000.0}, "fmin < fmax <= 8000, half of sample_rate"),
        ({"fmax": 9000.0}, "got fmin=50.0, fmax=9000.0"),
        ({"hop": 0}, "hop >= 1"),
        ({"floor": 0.0}, "floor must be > 0"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogMel(**options)


def test_spoken_digits_are_told_apart(reference_data: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    encoder = LogMel(sample_rate=8000, window=256, hop=80)
    parts = []
    for name, rows in (("train", 400), ("test", 150)):
        table = pq.read_table(reference_data / "fsdd" / f"{name}.parquet", columns=["audio", "label"])
        table = table.take(np.random.default_rng(0).permutation(len(table))[:rows])
        audio = np.empty(rows, dtype=object)
        audio[:] = [value.values.to_numpy() for value in table.column("audio")]
        with torch.inference_mode():
            parts += [
                encoder(encoder.preprocess({"audio": audio})).pooled.numpy(),
                table.column("label").to_numpy(),
            ]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(*parts[:2])
    # Chance is 0.1; order in time, which the statistics lose, would tell more.
    assert model.score(*parts[2:]) > 0.6
