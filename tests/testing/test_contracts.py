"""Every registered head and detector keeps its family's contract; a new one is covered by existing."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app import registry
from ray_app.methods.scorers._grey import ImageScorer
from ray_app.testing._expect import permuted
from ray_app.testing._rows import rows
from ray_app.testing.combiners import check_combiner
from ray_app.testing.detectors import check_detector
from ray_app.testing.encoders import check_encoder
from ray_app.testing.generators import check_generator
from ray_app.testing.heads import check_head
from ray_app.testing.mergeable import check_merge, check_mergeable, is_mergeable
from ray_app.testing.scorers import check_scorer
from ray_app.testing.transforms import check_transform

# Options that change the algorithm; each method is tried with its defaults besides.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "heads/nearest_mean": [
        {"metric": "cosine"},
        {"metric": "mahalanobis", "shrinkage": "oas"},
        {"normalize": True},
        {"temperature": 0.5},
    ],
    "heads/naive_bayes": [{"shared_variance": False}, {"priors": "uniform"}],
    "heads/linear_svm": [{"grid": [0.1, 1.0], "power": 0.5}],
    "detectors/mahalanobis": [
        {"layers": "last"},
        {"layers": ["first"], "shrinkage": "oas"},
        {"combine": "last"},
        {"combine": "logistic"},
    ],
    "detectors/knn": [{"k": 3, "normalize": False}, {"k": 1}, {"k": 5, "sample": 25}],
    "detectors/max_softmax": [{"temperature": 10.0}],
}


def variants(family: str) -> list[Any]:
    """A builder for each method of a family with each of its variants."""
    found = []
    for name in registry.names(family):
        for options in [{}, *VARIANTS.get(f"{family}/{name}", [])]:
            words = ",".join(f"{key}={value}" for key, value in options.items())
            found.append(pytest.param(partial(registry.build, family, name, options), id=f"{name}[{words}]"))
    return found


def mergeables() -> list[Any]:
    both = variants("heads") + variants("detectors")
    # One with learned weights has them from fit_combiner, which is no part of merging.
    return [one for one in both if is_mergeable(one.values[0]()) and "logistic]" not in str(one.id)]


@pytest.mark.parametrize("make", variants("heads"))
def test_heads(make: Any) -> None:
    check_head(make)


@pytest.mark.parametrize("make", variants("detectors"))
def test_detectors(make: Any) -> None:
    check_detector(make)


@pytest.mark.parametrize("make", mergeables())
def test_mergeable(make: Any) -> None:
    check_mergeable(make)


@pytest.mark.parametrize("make", mergeables())
@settings(derandomize=True, deadline=None, max_examples=15)
@given(
    n=st.integers(2, 40),
    seed=st.integers(0, 5),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    offset=st.sampled_from([0.0, 100.0]),
)
def test_merging_equals_fitting_at_once(make: Any, n: int, seed: int, cuts: list[int], offset: float) -> None:
    features, labels = rows(n, seed, offset=offset)
    order = permuted(n, seed)
    check_merge(make, features[order], labels[order], sorted(min(cut, n) for cut in cuts))


PICTURES = {
    "row_id": np.array([f"r{i}" for i in range(5)], dtype=object),
    "label": np.array([0, 1, 2, 0, 1]),
    "image": np.random.default_rng(0).integers(256, size=(5, 12, 12, 3), dtype=np.uint8),
    "text": np.array(
        ["The cat, and the dog.", "", "Café at noon", "one two three. four five six", "a b"], dtype=object
    ),
}
# What a method cannot do without.
REQUIRED: dict[str, dict[str, Any]] = {
    "transforms/resize": {"size": 7},
    "transforms/select": {"column": "label", "values": [0, 2]},
    "transforms/rotate": {"random": True},
    "transforms/chunk": {"size": 2},
    "transforms/augment": {"flip": 0.5, "crop": 0.5, "jitter": 0.3},
}


def tiny_model() -> Any:
    return registry.build(
        "encoders", "timm", {"model": "test_resnet", "num_classes": 3, "image_size": 32, "channels": 3}
    ).eval()


@pytest.mark.parametrize("name", registry.names("transforms"))
@pytest.mark.parametrize("kind", ["bytes", "floats", "ragged"])
def test_transforms(name: str, kind: str) -> None:
    batch = dict(PICTURES)
    if kind == "floats":
        batch["image"] = batch["image"].astype(np.float32) / 255
    if kind == "ragged":
        column = np.empty(5, dtype=object)
        column[:] = [image[: 6 + i] for i, image in enumerate(batch["image"])]
        batch["image"] = column
    needs_model = "model" in registry.options("transforms", name)
    supplied = {"model": tiny_model()} if needs_model else {}
    options = REQUIRED.get(f"transforms/{name}", {})
    check_transform(lambda: registry.build("transforms", name, options, **supplied), batch)


OF_PICTURES = [
    name for name in registry.names("scorers") if issubclass(registry.load("scorers", name), ImageScorer)
]


@pytest.mark.parametrize("name", OF_PICTURES)
def test_scorers_of_pictures(name: str) -> None:
    bad = {key: values[:1] for key, values in PICTURES.items()}
    bad["image"] = np.array([b"no image"], dtype=object)
    check_scorer(lambda: registry.build("scorers", name), PICTURES, bad)


@pytest.mark.parametrize("name", sorted(set(registry.names("scorers")) - set(OF_PICTURES)))
def test_other_scorers_have_the_suite_run_over_them(name: str) -> None:
    # They need models and rows of their own.
    test = Path(__file__).parents[1] / "methods" / "scorers" / f"test_{name}.py"
    assert "check_scorer(" in test.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", registry.names("generators"))
def test_generators(name: str) -> None:
    check_generator(lambda: registry.build("generators", name))


@pytest.mark.parametrize("name", registry.names("combiners"))
def test_combiners(name: str) -> None:
    check_combiner(lambda: registry.build("combiners", name))


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext"])
def test_timm(model: str) -> None:
    check_encoder(
        lambda: registry.build("encoders", "timm", {"model": model, "num_classes": 3, "image_size": 160}),
        PICTURES,
    )
