"""Image scorers against their formulas."""

import numpy as np
import pytest
from scipy.ndimage import laplace

from ray_app.methods.scorers.brightness import Brightness
from ray_app.methods.scorers.contrast import Contrast
from ray_app.methods.scorers.sharpness import Sharpness

GREY = np.random.default_rng(0).random((6, 12, 10))


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    expected = [laplace(image)[1:-1, 1:-1].var() for image in GREY]
    np.testing.assert_allclose(Sharpness().score({"image": GREY}), expected)
    checks = np.indices((8, 8)).sum(0) % 2
    assert Sharpness().score({"image": checks[None].astype(float)})[0] == pytest.approx(16)
    assert Sharpness().score({"image": np.zeros((1, 2, 2))})[0] == 0


def test_contrast_and_brightness_follow_their_formulas() -> None:
    np.testing.assert_allclose(Contrast().score({"image": GREY}), GREY.std((1, 2)))
    np.testing.assert_allclose(Brightness().score({"image": GREY}), np.abs(GREY.mean((1, 2)) - 0.5))


def test_bytes_and_colour_mean_the_same_as_grey_floats() -> None:
    colour = np.repeat((GREY * 255).round().astype(np.uint8)[..., None], 3, axis=-1)
    for scorer in (Sharpness(), Contrast(), Brightness()):
        np.testing.assert_allclose(scorer.score({"image": colour}), scorer.score({"image": GREY}), atol=0.01)
