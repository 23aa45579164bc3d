"""Chance by row, options by modality, and shares as asked for."""

import numpy as np
import pytest

from ray_app.errors import SpecError
from ray_app.methods.transforms.augment import Augment
from ray_app.testing.transforms import check_transform
from tests.methods.transforms.texts import batch, build

WORDS = [f"word{i}" for i in range(1000)]


def changed(**options: float) -> list[str]:
    return str(build("augment", **options)(batch(" ".join(WORDS)))["text"][0]).split()


def test_words_go_with_the_probability_given_and_one_always_stays() -> None:
    left = changed(delete=0.3)
    assert 0.65 < len(left) / 1000 < 0.75
    assert left == [word for word in WORDS if word in set(left)]
    assert len(changed(delete=1.0)) == 1


def test_swapped_words_are_the_same_words() -> None:
    swapped = changed(swap=0.2)
    assert sorted(swapped) == sorted(WORDS)
    assert 150 < sum(a != b for a, b in zip(swapped, WORDS, strict=True)) < 500


def test_typos_change_one_place_of_some_words() -> None:
    typed = changed(typo=0.2)
    different = [(a, b) for a, b in zip(typed, WORDS, strict=True) if a != b]
    # An exchange of two equal digits changes nothing.
    assert 130 < len(different) < 250
    for new, old in different:
        assert abs(len(new) - len(old)) <= 1
        assert sorted(new) == sorted(old) or len(new) != len(old)


def test_rows_differ_and_seeds_differ() -> None:
    rows = batch(*[" ".join(WORDS[:20])] * 2)
    one = build("augment", delete=0.5)(rows)["text"]
    other = build("augment", delete=0.5, seed=1)(rows)["text"]
    assert one[0] != one[1]
    assert one[0] != other[0]


IMAGE = np.random.default_rng(0).random((8, 6, 3)).astype(np.float32)


def image(**options: float) -> np.ndarray:
    rows = {"row_id": np.array(["a"], dtype=object), "image": IMAGE[None]}
    return np.asarray(build("augment", **options)(rows)["image"][0])


def test_images_are_mirrored_cropped_and_tinted() -> None:
    assert np.array_equal(image(flip=1.0), IMAGE[:, ::-1])
    cropped = image(crop=0.3)
    assert cropped.shape == IMAGE.shape
    assert not np.allclose(cropped, IMAGE, atol=0.05)
    # A crop of a ramp is a gentler ramp, still inside of the old one.
    ramp = np.linspace(0, 1, 32, dtype=np.float32)[None, :, None].repeat(32, 0)
    rows = {"row_id": np.array(["a"], dtype=object), "image": ramp[None]}
    steps = np.diff(np.asarray(build("augment", crop=0.25)(rows)["image"][0])[16, 4:-4, 0])
    assert (steps > 0).all()
    assert 0.4 < steps.mean() * 31 < 1.0
    tinted = image(jitter=0.5)
    assert tinted.min() >= 0
    assert tinted.max() <= 1
    assert not np.allclose(tinted, IMAGE, atol=0.05)
    assert np.corrcoef(tinted.ravel(), IMAGE.ravel())[0, 1] > 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "options of neither were given"),
        ({"typo": 0.1, "flip": 0.5}, "options of both were given"),
        ({"delete": 1.5}, "delete must be in 0..1, got 1.5"),
        ({"crop": 0.0}, "above 0, got 0.0"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build("augment", **options)


def test_contract() -> None:
    rows = batch("a few words here", "", "one", "two words")
    check_transform(lambda: Augment(delete=0.3, swap=0.3, typo=0.3), rows)
