import numpy as np
from sklearn.datasets import load_digits, load_sample_image, load_wine

from ray_app.data.sources.sklearn import Sklearn


def whole(source: Sklearn) -> dict[str, np.ndarray]:
    (unit,) = source.units(10**6)
    return source.read(unit).batch


def test_digits_are_scaled_to_the_range_of_bytes() -> None:
    batch, bunch = whole(Sklearn(dataset="digits")), load_digits()
    assert batch["image"].dtype == np.uint8
    np.testing.assert_allclose(batch["image"][..., 0] / 255, bunch.images / 16, atol=0.5 / 255)
    np.testing.assert_array_equal(batch["label"], bunch.target)


def test_a_patch_is_where_its_name_says() -> None:
    batch = whole(Sklearn(dataset="photo_patches", size=20, stride=13))
    names = batch["row_id"].tolist()
    assert len(set(names)) == len(names)
    row = names.index("flower.jpg#26,39,20")
    np.testing.assert_array_equal(batch["image"][row], load_sample_image("flower.jpg")[26:46, 39:59])
    grey = whole(Sklearn(dataset="photo_patches", size=20, stride=13, grey=True))["image"]
    luma = batch["image"] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[..., 0], luma, atol=0.5 + 1e-9)


def test_tables_are_tensors_with_named_classes() -> None:
    source = Sklearn(dataset="wine")
    np.testing.assert_allclose(whole(source)["tensor"], load_wine().data, rtol=1e-6)
    assert list(source.labels) == ["class_0", "class_1", "class_2"]
