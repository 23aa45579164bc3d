"""Image transforms against formulas, and what they do to types and shapes."""

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import convolve

from ray_app import registry

RNG = np.random.default_rng(0)
GREY = {
    "row_id": np.array(["a", "b"], dtype=object),
    "image": RNG.random((2, 9, 9, 1)).astype(np.float32) * 0.5 + 0.25,
}


def run(name: str, batch: dict[str, np.ndarray] | None = None, **options: Any) -> np.ndarray:
    return registry.build("transforms", name, options)(batch or GREY)["image"]


def test_invert_and_contrast_follow_their_formulas() -> None:
    np.testing.assert_allclose(run("invert"), 1 - GREY["image"], atol=1e-6)
    mean = GREY["image"].mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(run("contrast", factor=0.3), mean + 0.3 * (GREY["image"] - mean), atol=1e-6)
    assert run("contrast", factor=100.0).max() <= 1


def test_blur_is_a_gaussian_mean() -> None:
    reach = np.arange(-4, 5)
    kernel = np.exp(-(reach**2) / 2)
    kernel = np.outer(kernel, kernel) / np.outer(kernel, kernel).sum()
    expected = convolve(GREY["image"][0, :, :, 0], kernel, mode="reflect")
    np.testing.assert_allclose(run("gaussian_blur", sigma=1.0)[0, :, :, 0], expected, atol=1e-5)


def test_noise_has_its_standard_deviation_and_depends_on_row_and_seed() -> None:
    flat = {"row_id": GREY["row_id"], "image": np.full((2, 200, 200, 1), 0.5, dtype=np.float32)}
    noise = run("gaussian_noise", flat, std=0.05) - 0.5
    assert noise.std() == pytest.approx(0.05, rel=0.02)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.02
    other = run("gaussian_noise", flat, std=0.05, seed=1) - 0.5
    assert abs(np.corrcoef(noise[0].ravel(), other[0].ravel())[0, 1]) < 0.02


def test_rotation_turns_counter_clockwise_by_its_degrees() -> None:
    np.testing.assert_allclose(run("rotate", degrees=90.0), np.rot90(GREY["image"], axes=(1, 2)), atol=1e-5)
    one = run("rotate", degrees=90.0, random=True)
    assert np.abs(one[0] - np.rot90(GREY["image"][0])).max() > 0.01
    corner = run("rotate", degrees=45.0, fill=1.0)[0, 0, 0, 0]
    assert corner == pytest.approx(1.0)


def test_resize_keeps_the_mean_and_what_fits() -> None:
    smaller = run("resize", size=[3, 3])
    np.testing.assert_allclose(smaller.mean((1, 2)), GREY["image"].mean((1, 2)), atol=0.03)
    np.testing.assert_array_equal(run("resize", size=9), GREY["image"])


@pytest.mark.parametrize("axes", [2, 3])
def test_bytes_stay_bytes_and_axes_stay(axes: int) -> None:
    pixels = RNG.integers(256, size=(2, 9, 9, 1), dtype=np.uint8)
    batch = {"row_id": GREY["row_id"], "image": pixels if axes == 3 else pixels[..., 0]}
    result = run("invert", batch)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, 255 - batch["image"])


def test_encoded_images_are_decoded() -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5), 200, dtype=np.uint8)).save(buffer, format="PNG")
    column = np.array([buffer.getvalue()], dtype=object)
    result = run("invert", {"row_id": GREY["row_id"][:1], "image": column})
    assert result.shape == (1, 4, 5, 1)
    assert (result == 55).all()


def test_a_bad_row_is_named() -> None:
    column = np.empty(2, dtype=object)
    column[:] = [GREY["image"][0], b"no image"]
    with pytest.raises(ValueError, match="row 1: not a readable image"):
        run("invert", {"row_id": GREY["row_id"], "image": column})
    with pytest.raises(ValueError, match="row 0: image of shape"):
        run("invert", {"row_id": GREY["row_id"][:1], "image": np.zeros((1, 2, 2, 7))})


def test_select_keeps_what_is_asked_for() -> None:
    batch = {
        "label": np.array([0, 1, 2, 3]),
        "score": np.array([0.1, np.nan, 0.5, 0.9]),
        "name": np.array(list("abcd")),
    }

    def kept(**options: Any) -> str:
        return "".join(registry.build("transforms", "select", options)(batch)["name"])

    assert kept(column="label", values=[1, 3]) == "bd"
    assert kept(column="label", values=[1, 3], drop=True) == "ac"
    assert kept(column="score", at_least=0.5) == "cd"
    assert kept(column="score", at_least=0.2, at_most=0.6) == "c"
    assert kept(column="name", values=["a"]) == "a"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gaussian_noise", {"std": -1}, "try 0.1"),
        ("gaussian_blur", {"sigma": -1}, "try 1.0"),
        ("contrast", {"factor": -1}, "flattens"),
        ("rotate", {"degrees": 1000}, "-360..360"),
        ("rotate", {"fill": 2}, "0..1"),
        ("resize", {"size": 0}, "1..4096"),
        ("resize", {"size": [1, 2, 3]}, "one or two"),
        ("select", {"column": "label"}, "nothing to select by"),
        ("select", {"column": "label", "at_least": 2, "at_most": 1}, "no row can be both"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    from ray_app.errors import SpecError

    with pytest.raises(SpecError, match=message):
        registry.build("transforms", name, options)
