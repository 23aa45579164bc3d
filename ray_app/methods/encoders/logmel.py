"""Log-mel statistics of a sound: how loud each band is, and how much that varies; nothing is learned.

    S[f, b] = 10 log10(max(sum_k M[b, k] |X_f[k]|^2, floor))         dB; X_f: DFT of a Hann-windowed frame
    pooled = mean and standard deviation of S over the frames f, band by band: 2 * bands numbers

Frames begin every `hop` samples and lie whole within the sound; one that is shorter than a frame is filled up
with silence. The triangles M have their corners evenly spaced in mel (linear below 1 kHz, logarithmic above)
and an area of one each.

Reference: M. Slaney, "Auditory Toolbox", Interval Research Technical Report 1998-010; as a front end, Q. Kong
    et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition", TASLP 2020,
    https://arxiv.org/abs/1912.10211
Departure: no reflection at the ends, so that a sound's features do not depend on how far others were padded.
Cost: one FFT a frame; O(t log window).
"""

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ray_app.methods import _sounds
from ray_app.methods.encoders import Encoder, Features, Inputs, Preparation, Want, check_want

if TYPE_CHECKING:
    from ray_app.methods import Batch

# Slaney's scale: 200 / 3 Hz a mel below 1 kHz, and 27 mel for each factor of 6.4 above.
_HERTZ_PER_MEL = 200 / 3
_KNEE_HERTZ = 1000.0
_LOG_STEP = math.log(6.4) / 27
_LEAST_VARIANCE = 1e-12


class LogMel(Encoder):
    """Use it as a fast baseline for sounds, or look at it before paying for a network; reads `audio`.

    Args:
        sample_rate: In Hz; rows of another rate, as the column `sample_rate` says, are brought to it.
        window: Samples of a frame.
        hop: Samples from one frame to the next.
        bands: How many.
        fmin: Lowest frequency, in Hz.
        fmax: Highest; None: half of the sample rate.
        floor: Least power that counts, in squares of the samples' unit.
    """

    modality = "audio"

    window: Tensor  # float32 [window]
    filters: Tensor  # float32 [window / 2 + 1, bands]

    def __init__(
        self,
        *,
        sample_rate: int = 16_000,
        window: int = 400,
        hop: int = 160,
        bands: int = 64,
        fmin: float = 50.0,
        fmax: float | None = None,
        floor: float = 1e-10,
    ) -> None:
        super().__init__()
        high = fmax if fmax is not None else sample_rate / 2
        if window < 2 or hop < 1 or bands < 1:
            raise ValueError(
                f"logmel: expected window >= 2, hop >= 1 and bands >= 1, got {window!r}, {hop!r}, {bands!r}"
            )
        if not 0 <= fmin < high <= sample_rate / 2:
            raise ValueError(
                f"logmel: expected 0 <= fmin < fmax <= {sample_rate / 2:g}, half of sample_rate,"
                f" got fmin={fmin!r}, fmax={high!r}"
            )
        if not floor > 0:
            raise ValueError(f"logmel: floor must be > 0, got {floor!r}; leave it out for 1e-10")
        self.options = {
            "sample_rate": sample_rate,
            "window": window,
            "hop": hop,
            "bands": bands,
            "fmin": fmin,
            "fmax": fmax,
            "floor": floor,
        }
        self.hop, self.floor = hop, floor
        self.dim = 2 * bands
        self.preparation: _Waveforms = _Waveforms(sample_rate, window, hop)
        self.register_buffer("window", torch.hann_window(window))
        self.register_buffer("filters", _triangles(sample_rate, window, bands, fmin, high))

    @classmethod
    def light(cls, **options: Any) -> Preparation:
        """Return what brings waveforms to its rate."""
        return cls(**options).preparation

    def forward(self, inputs: Inputs, want: Collection[Want] = ()) -> Features:
        """Return features of what `preprocess` made of n sounds; tokens are the frames S [n, f, bands]."""
        if isinstance(inputs, Tensor):
            raise TypeError("logmel: expected a dict with waveform, got a tensor; call preprocess first")
        check_want(want, {"tokens", "inputs"}, "logmel")
        frames = self._frames(inputs["waveform"])
        counts = inputs["frames"]
        real = torch.arange(frames.shape[1], device=frames.device) < counts[:, None]
        weight = (real / counts[:, None])[..., None]
        mean = (frames * weight).sum(1)
        # From the deviations: squares of -100 dB and more would cancel.
        variance = ((frames - mean[:, None]).square() * weight).sum(1)
        return Features(
            # The root's slope at 0 is infinite.
            pooled=torch.cat([mean, variance.clamp(min=_LEAST_VARIANCE).sqrt()], 1),
            tokens=frames if "tokens" in want else None,
            lengths=counts if "tokens" in want else None,
            inputs=inputs if "inputs" in want else None,
        )

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return the options; there are no files."""
        return dict(self.options), {}

    @property
    def device(self) -> torch.device:
        """Where its filters are."""
        return self.filters.device

    def _frames(self, waveform: Tensor) -> Tensor:
        """Float32 [n, f, bands], in dB."""
        if not len(waveform):
            return waveform.new_zeros(0, 1, self.filters.shape[1])
        spectrum = torch.stft(
            waveform,
            n_fft=len(self.window),
            hop_length=self.hop,
            window=self.window,
            center=False,
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return 10 * (power.mT @ self.filters).clamp(min=self.floor).log10()


class _Waveforms(Preparation):
    """Waveforms at one rate, each at least a frame long."""

    column = "audio"

    def __init__(self, sample_rate: int, window: int, hop: int) -> None:
        self.sample_rate = sample_rate
        self.window = window
        self.hop = hop

    def prepare(self, batch: "Batch") -> "Batch":
        """Return the column `waveform`: float32 [t] each.

        Raises:
            ValueError: The column is missing, or a row is no sound.
        """
        if self.column not in batch:
            raise ValueError(
                f"no column {self.column!r} to encode (columns: {', '.join(batch)}); map it with `columns:`"
            )
        rates = batch.get("sample_rate")
        waveforms = np.empty(len(batch[self.column]), dtype=object)
        for row, value in enumerate(batch[self.column]):
            try:
                waveforms[row] = self._waveform(value, None if rates is None else int(rates[row]))
            except (ValueError, TypeError) as error:
                raise ValueError(f"row {row}: {error}") from error
        return {"waveform": waveforms}

    def collate(self, prepared: "Batch") -> Inputs:
        """Return waveform float32 [n, t], silent after each row's end, and frames int64 [n]."""
        rows = prepared["waveform"]
        longest = max((len(row) for row in rows), default=self.window)
        waveform = torch.zeros(len(rows), longest)
        for index, row in enumerate(rows):
            waveform[index, : len(row)] = torch.from_numpy(np.array(row, dtype=np.float32))
        return {"waveform": waveform, "frames": torch.from_numpy(self.lengths(prepared))}

    def lengths(self, prepared: "Batch") -> np.ndarray:
        """Return the frames of each row."""
        samples = np.array([len(row) for row in prepared["waveform"]], dtype=np.int64)
        return (samples - self.window) // self.hop + 1

    def _waveform(self, value: Any, rate: int | None) -> np.ndarray:
        if isinstance(value, (bytes, bytearray, memoryview)):
            waveform, _ = _sounds.decode(bytes(value), self.sample_rate)
        elif value is None or isinstance(value, str):
            raise ValueError(f"{type(value).__name__} in the column {self.column!r}; expected a sound")
        else:
            waveform = _sounds.mono(np.asarray(value))
            waveform = _sounds.resampled(waveform, rate or self.sample_rate, self.sample_rate)
        return np.pad(waveform, (0, max(0, self.window - len(waveform))))


def _triangles(sample_rate: int, window: int, bands: int, fmin: float, fmax: float) -> Tensor:
    """Float32 [window / 2 + 1, bands]: weights of the DFT's frequencies in each band."""
    corners = _hertz(np.linspace(_mel(fmin), _mel(fmax), bands + 2))
    low, peak, high = corners[:-2], corners[1:-1], corners[2:]
    frequency = np.fft.rfftfreq(window, 1 / sample_rate)[:, None]
    rising, falling = (frequency - low) / (peak - low), (high - frequency) / (high - peak)
    return torch.from_numpy(np.clip(np.minimum(rising, falling), 0, None) * 2 / (high - low)).float()


def _mel(hertz: float) -> float:
    if hertz < _KNEE_HERTZ:
        return hertz / _HERTZ_PER_MEL
    return _KNEE_HERTZ / _HERTZ_PER_MEL + math.log(hertz / _KNEE_HERTZ) / _LOG_STEP


def _hertz(mel: np.ndarray) -> np.ndarray:
    knee = _KNEE_HERTZ / _HERTZ_PER_MEL
    above = _KNEE_HERTZ * np.exp(_LOG_STEP * (np.maximum(mel, knee) - knee))
    return np.where(mel < knee, mel * _HERTZ_PER_MEL, above)
