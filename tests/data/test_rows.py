"""What is decoded, and what is refused, between a source and a reader."""

import io
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from scipy.signal import resample

from ray_app.data.arrow import objects
from ray_app.data.rows import decoded, numbered
from ray_app.data.sources import Read
from ray_app.methods import _images, _sounds

RNG = np.random.default_rng(0)


def batch(**columns: Any) -> Read:
    count = len(next(iter(columns.values())))
    return Read({"row_id": objects([f"r{i}" for i in range(count)]), **columns})


def smooth(height: int, width: int) -> Image.Image:
    """A picture of which a small version looks like the large one."""
    y, x = np.mgrid[:height, :width]
    planes = [y / height, x / width, (x + y) / (height + width)]
    return Image.fromarray(np.round(np.stack(planes, -1) * 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def tone(seconds: float = 1.0, rate: int = 16_000, hertz: float = 440) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def sound(samples: np.ndarray, rate: int = 16_000, kind: str = "WAV", subtype: str | None = "FLOAT") -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=kind, subtype=subtype)
    return content.getvalue()


@pytest.mark.parametrize(
    ("at_least", "shape"),
    [
        (None, (640, 480)),
        ((160, 120), (160, 120)),
        ((161, 10), (320, 240)),
        ((80, 61), (160, 120)),
        ((1, 1), (80, 60)),
    ],
)
def test_a_jpeg_comes_at_the_smallest_scale_not_below_what_is_wanted(
    at_least: tuple[int, int] | None, shape: tuple[int, int]
) -> None:
    content = encoded(smooth(640, 480), quality=95)
    pixels = _images.decode(content, at_least=at_least)
    assert pixels.shape == (*shape, 3)
    small = np.asarray(smooth(640, 480).resize(shape[::-1], Image.Resampling.BOX))
    assert np.abs(pixels.astype(int) - small).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("at_least", [None, (40, 60)])
def test_photographs_are_upright(orientation: int, at_least: tuple[int, int] | None) -> None:
    upright = smooth(160, 240)
    # How a camera that lay on its side would have stored it: the inverse of what the number says to do.
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(Image.Transpose(inverse[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = _images.decode(encoded(stored, quality=95, exif=exif), at_least=at_least)
    factor = 160 // pixels.shape[0]
    assert pixels.shape == (160 // factor, 240 // factor, 3)
    assert factor == (1 if at_least is None else 4)
    expected = np.asarray(upright.resize((240 // factor, 160 // factor), Image.Resampling.BOX))
    assert np.abs(pixels.astype(int) - expected).mean() < 2


def test_deep_and_unusual_pixels_become_bytes() -> None:
    deep = (np.arange(6, dtype=np.uint16) * 13_000).reshape(2, 3)
    assert _images.decode(encoded(Image.fromarray(deep), "PNG"))[..., 0].tolist() == (deep >> 8).tolist()
    cmyk = smooth(32, 32).convert("CMYK")
    assert (
        np.abs(_images.decode(encoded(cmyk, quality=95)).astype(int) - np.asarray(smooth(32, 32))).mean() < 4
    )
    frames = [smooth(8, 8), smooth(8, 8).rotate(90)]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert _images.decode(animated).shape == (8, 8, 3)
    assert _images.decode(encoded(smooth(8, 8).convert("L"), "PNG")).shape == (8, 8, 1)
    assert (
        _images.decode(encoded(smooth(8, 8), "WEBP", lossless=True)).tolist()
        == np.asarray(smooth(8, 8)).tolist()
    )
    with pytest.raises(ValueError, match="floating-point"):
        _images.decode(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))


def damaged() -> list[Any]:
    """Pieces and bit errors of files of all kinds."""
    found = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        content = encoded(Image.fromarray(RNG.integers(256, size=(24, 24, 3), dtype=np.uint8)), kind)
        cuts = (0, 1, 9, 20, len(content) // 2, len(content) - 30)
        found += [pytest.param(content[:cut], id=f"{kind}-{cut}") for cut in cuts]
    return [*found, pytest.param(b"only text\n" * 50, id="text")]


@pytest.mark.parametrize("content", damaged())
def test_what_is_cut_short_is_no_image(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a readable image|expected 1 to"):
        _images.decode(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_bit_errors_raise_nothing_else_than_one_line(kind: str) -> None:
    content = encoded(Image.fromarray(RNG.integers(256, size=(16, 16, 3), dtype=np.uint8)), kind)
    for seed in range(150):
        rng = np.random.default_rng(seed)
        broken = np.frombuffer(content, np.uint8).copy()
        broken[rng.integers(len(broken), size=3)] = rng.integers(256, size=3)
        # Whatever else is raised fails the test.
        with suppress(ValueError):
            assert _images.decode(broken.tobytes()).dtype == np.uint8


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    small = Image.new("1", (_images.MAX_PIXELS // 1000 + 1, 1000))
    large = Image.new("1", (20_000, 20_000))
    for image in (small, large):
        content = encoded(image, "PNG")
        assert len(content) < 100_000
        with pytest.raises(ValueError, match=r"expected 1 to 64,000,000|decompression bomb"):
            _images.decode(content)


def test_sounds_become_waveforms_at_the_rate_asked_for() -> None:
    stereo = np.stack([tone(), 0.5 * tone()], 1)
    contents = [
        sound(stereo),
        sound(stereo, kind="FLAC", subtype="PCM_16"),
        sound(stereo, kind="OGG", subtype="VORBIS"),
    ]
    read = decoded(batch(audio=objects(contents)))
    assert read.batch["sample_rate"].tolist() == [16_000] * 3
    for waveform, off in zip(read.batch["audio"], (1e-6, 1e-4, 0.05), strict=True):
        assert waveform.dtype == np.float32
        np.testing.assert_allclose(waveform, 0.75 * tone(), atol=off)
    own = decoded(batch(audio=objects(contents[:1]), sample_rate=np.array([0])))
    assert own.batch["sample_rate"].tolist() == [16_000]
    lower = decoded(batch(audio=objects(contents[:1]), sample_rate=np.array([8000])))
    assert lower.batch["sample_rate"].tolist() == [8000]
    # Away from the ends, where filters differ; in the middle a Fourier resampler is a second implementation.
    middle = slice(1000, 7000)
    np.testing.assert_allclose(
        lower.batch["audio"][0][middle], resample(0.75 * tone(), 8000)[middle], atol=2e-3
    )


def test_what_a_lower_rate_cannot_hold_is_filtered_away() -> None:
    high = _sounds.decode(sound(tone(hertz=7000)), 8000)[0]
    assert np.abs(high[500:-500]).max() < 0.01


def test_samples_in_tables_are_scaled_by_their_type() -> None:
    ints = np.array([0, 16384, -32768], dtype=np.int16)
    column = objects(
        [
            ints,
            (ints // 256 + 128).astype(np.uint8),
            ints.astype(np.float32) / 32768,
            np.stack([ints, ints], 1),
        ]
    )
    read = decoded(batch(audio=column, sample_rate=np.array([8000, 8000, 16000, 8000], dtype=np.int32)))
    for waveform in read.batch["audio"]:
        assert waveform.dtype == np.float32
        assert waveform.tolist() == [0, 0.5, -1]
    assert read.batch["sample_rate"].tolist() == [8000, 8000, 16000, 8000]
    assert "sample_rate" not in decoded(batch(audio=column)).batch


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: sound(np.where(np.arange(9) == 4, np.nan, 0.1)), "1 samples that are NaN"),
        (lambda: sound(np.zeros(0)), "without a sample"),
        (lambda: sound(tone())[:2000], "is it truncated"),
        (lambda: sound(tone(), kind="FLAC", subtype="PCM_16")[:-400], "not a readable sound"),
        (lambda: sound(tone(), kind="MP3", subtype=None)[:1500], "is it truncated"),
        (
            lambda: sound(np.zeros(1000 * 700), 1000, subtype="PCM_U8"),
            "sound of 700 seconds; the limit is 600",
        ),
        (lambda: sound(tone(), rate=300), "sample rate of 300 Hz"),
        (lambda: b"", "not a readable sound"),
        (lambda: b"text\n" * 99, "not a readable sound .Format not recognised"),
        (lambda: None, "no sound"),
        (lambda: "a text", "no sound: str"),
        (lambda: np.array([]), "without a sample"),
        (lambda: np.zeros((2, 2, 2)), r"of shape \(2, 2, 2\)"),
        (lambda: np.array([1, 2j]), "of type complex128"),
    ],
)
def test_bad_sounds_are_rejected_alone(make: Callable[[], Any], reason: str) -> None:
    read = decoded(batch(audio=objects([sound(tone()), make(), sound(tone(2))])))
    assert [len(waveform) for waveform in read.batch["audio"]] == [16_000, 32_000]
    assert [bad.row_id for bad in read.rejected] == ["r1"]
    with pytest.raises(ValueError, match=reason):
        raise ValueError(read.rejected[0].reason)


def test_a_rate_that_is_none_costs_its_row() -> None:
    rates = np.array([8000.0, -1.0, np.nan])
    read = decoded(batch(audio=objects([sound(tone())] * 3), sample_rate=rates))
    assert [bad.row_id for bad in read.rejected] == ["r1", "r2"]
    assert all("expected a number of Hz" in bad.reason for bad in read.rejected)


def test_hugging_face_features_and_images_without_pixels() -> None:
    read = decoded(batch(audio=objects([{"bytes": sound(tone()), "path": None}, {"path": "x.wav"}])))
    assert [bad.row_id for bad in read.rejected] == ["r1"]
    read = decoded(
        batch(image=objects([{"bytes": encoded(smooth(4, 4), "PNG")}, np.zeros((0, 4, 3), np.uint8)]))
    )
    assert read.batch["image"].shape == (1, 4, 4, 3)
    assert "without a pixel" in read.rejected[0].reason


@pytest.mark.parametrize(
    "label", [float("inf"), 1e300, 10**30, 0.5, -1, 3, None, float("nan"), "owl", [1], b"1"]
)
def test_labels_that_are_no_class_are_rejected(label: Any) -> None:
    read = numbered(batch(label=objects([1, label, "cat"])), ["ant", "bee", "cat"], "pets")
    assert read.batch["label"].tolist() == [1, 2]
    assert [bad.row_id for bad in read.rejected] == ["r1"]
    assert "label" in read.rejected[0].reason
