"""Generated pictures: what is promised of textures and glyphs beyond the contract."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ray_app.methods.generators.glyphs import Glyphs
from ray_app.methods.generators.textures import Textures


@pytest.mark.parametrize("channels", [1, 3])
def test_textures_have_their_size_and_kinds(channels: int) -> None:
    batch = Textures(size=20, channels=channels).at(range(60), 0)
    assert batch["image"].shape == (60, 20, 20, channels)
    assert batch["image"].dtype == np.uint8
    assert set(batch["kind"].tolist()) == {"gratings", "checkerboards", "noise", "blobs"}
    # Something is to be seen in each of them.
    assert (batch["image"].reshape(60, -1).std(1) > 5).all()


def test_only_the_kinds_asked_for() -> None:
    batch = Textures(kinds=["checkerboards"]).at(range(10), 0)
    assert set(batch["kind"].tolist()) == {"checkerboards"}
    assert all(len(np.unique(image.reshape(-1, 3), axis=0)) == 2 for image in batch["image"])


def test_glyphs_without_disturbance_are_one_picture_a_class() -> None:
    batch = Glyphs(alphabet="ab1", noise=0, degrees=0, shift=0, clutter=False).at(range(40), 0)
    assert batch["image"].shape == (40, 16, 16, 1)
    pictures = [np.unique(batch["image"][batch["label"] == c], axis=0) for c in range(3)]
    assert [len(one) for one in pictures] == [1, 1, 1]
    assert all(one.max() > 200 for one in pictures)
    assert not np.array_equal(pictures[0], pictures[1])


def test_glyphs_can_be_learned_but_not_from_few_pixels() -> None:
    batch = Glyphs(alphabet="013", noise=0.1, degrees=10).at(range(900), 0)
    x, y = batch["image"].reshape(900, -1) / 255, batch["label"]
    accuracy = LogisticRegression(max_iter=500).fit(x[:600], y[:600]).score(x[600:], y[600:])
    assert accuracy > 0.8


def test_noise_has_its_size() -> None:
    plain = Glyphs(noise=0).at(range(50), 0)["image"].astype(float)
    noisy = Glyphs(noise=0.1).at(range(50), 0)["image"].astype(float)
    middle = (plain > 80) & (plain < 175)
    assert (noisy - plain)[middle].std() / 255 == pytest.approx(0.1, rel=0.1)
    assert Glyphs(alphabet="xyz").labels == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Textures(size=1), "4..4096"),
        (lambda: Textures(channels=2), "1 or 3"),
        (lambda: Textures(kinds=["fog"]), "unknown kind 'fog'"),
        (lambda: Textures(kinds=[]), "empty"),
        (lambda: Glyphs(alphabet="aa"), "different characters"),
        (lambda: Glyphs(size=1), "8..512"),
        (lambda: Glyphs(noise=-1), "noise is >= 0"),
    ],
)
def test_bad_options(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
