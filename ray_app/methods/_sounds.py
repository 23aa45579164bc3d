"""Encoded sounds to waveforms, apart from the encoders: who only reads rows loads no torch."""

import io
import math
from functools import lru_cache

import numpy as np

# A small file can say that it unpacks to days.
MAX_SECONDS = 600.0
_MAX_SAMPLES = 2**28
_RATES = range(1_000, 768_001)


def decode(
    content: bytes, sample_rate: int | None = None, max_seconds: float = MAX_SECONDS
) -> tuple[np.ndarray, int]:
    """Return the waveform of a WAV, FLAC, Ogg or MP3, float32 [t] in about -1..1, mono, and its rate in Hz.

    Args:
        content: The file.
        sample_rate: The rate it is brought to; None: its own.
        max_seconds: Longer sounds are refused.

    Raises:
        ValueError: No sound, an empty one, one that is too long, or one with NaN or infinite samples.
    """
    # Loads a C library that only sounds need.
    import soundfile

    _check_whole(content)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate, frames, channels = file.samplerate, file.frames, file.channels
            _check(rate, frames, channels, max_seconds)
            waveform = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise ValueError(f"not a readable sound ({_said(error)})") from error
    # The length of an MP3 may be an estimate.
    if len(waveform) < 0.99 * frames:
        raise ValueError(f"sound of {frames:,} samples that ends after {len(waveform):,}; is it truncated?")
    return resampled(mono(waveform), rate, sample_rate or rate), sample_rate or rate


def mono(samples: np.ndarray) -> np.ndarray:
    """Return float32 [t] of samples [t] or [t, channels]; whole numbers are scaled to -1..1 by their type.

    Raises:
        ValueError: None, or some are NaN or infinite.
    """
    if samples.dtype.kind == "u":
        # Unsigned sound has its silence in the middle.
        half = 2.0 ** (8 * samples.dtype.itemsize - 1)
        samples = (samples - half) / half
    elif samples.dtype.kind == "i":
        samples = samples / 2.0 ** (8 * samples.dtype.itemsize - 1)
    elif samples.dtype.kind != "f":
        raise ValueError(f"sound of type {samples.dtype}; expected numbers")
    if not samples.size:
        raise ValueError("sound without a sample")
    if samples.ndim not in (1, 2):
        raise ValueError(f"sound of shape {samples.shape}; expected [t] or [t, channels]")
    waveform = samples.mean(1) if samples.ndim == 2 else samples
    if bad := int(np.count_nonzero(~np.isfinite(waveform))):
        raise ValueError(f"sound with {bad:,} samples that are NaN or infinite")
    return np.asarray(waveform, dtype=np.float32)


def resampled(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Return float32 [about t * wanted / rate]: a polyphase filter cuts what the lower rate cannot hold."""
    if rate == wanted:
        return waveform
    up, down = _ratio(rate, wanted)
    from scipy.signal import resample_poly

    return np.asarray(resample_poly(waveform, up, down), dtype=np.float32)


@lru_cache(maxsize=64)
def _ratio(rate: int, wanted: int) -> tuple[int, int]:
    for hertz in (rate, wanted):
        if hertz not in _RATES:
            raise ValueError(f"sample rate of {hertz:,} Hz; expected {_RATES[0]:,} to {_RATES[-1]:,}")
    common = math.gcd(rate, wanted)
    return wanted // common, rate // common


def _check(rate: int, frames: int, channels: int, max_seconds: float) -> None:
    if rate not in _RATES:
        raise ValueError(f"sample rate of {rate:,} Hz; expected {_RATES[0]:,} to {_RATES[-1]:,}")
    if frames > max_seconds * rate or frames * channels > _MAX_SAMPLES:
        raise ValueError(f"sound of {frames / rate:,.0f} seconds; the limit is {max_seconds:g}")


def _check_whole(content: bytes) -> None:
    """Refuse a WAV that lacks what its header counts; the decoder would take it for a shorter one."""
    said = int.from_bytes(content[4:8], "little") + 8
    # Who writes to a pipe does not know the length, and says 0 or nearly 2 or 4 GiB.
    if content[:4] == b"RIFF" and len(content) < said < 2**31 - 2**16 and said > 8:
        raise ValueError(f"sound of {said:,} bytes of which {len(content):,} are there; is it truncated?")


def _said(error: BaseException) -> str:
    # The library also names the object that it read from.
    return str(error).rpartition(": ")[2].partition("\n")[0] or type(error).__name__
