"""What a suite may say: exactly one in-distribution dataset, and names that can be files."""

from typing import Any

import pytest

from ray_app.errors import SpecError
from ray_app.spec import parse
from ray_app.spec.suite import SuiteSpec

IND = {"role": "ind", "dataset": "datasets/digits.yaml"}
FAR = {"role": "far_ood", "dataset": "datasets/textures.yaml"}


def suite(**datasets: Any) -> SuiteSpec:
    return parse({"name": "s", "datasets": datasets}, SuiteSpec, "suite.yaml")


def test_the_reference_is_the_in_distribution_dataset() -> None:
    assert suite(far=FAR, clean=IND).reference == "clean"


@pytest.mark.parametrize(
    ("datasets", "given"),
    [({"far": FAR}, "got none"), ({"a": IND, "b": IND}, r"got \['a', 'b'\]"), ({}, "at least 1 item")],
)
def test_exactly_one_is_in_distribution(datasets: dict[str, Any], given: str) -> None:
    with pytest.raises(SpecError, match=given):
        suite(**datasets)


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/b", ".hidden", "", "a b"])
def test_a_name_that_cannot_be_a_file_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="should match pattern"):
        suite(**{"clean": IND, name: FAR})


def test_transforms_are_checked_against_their_classes() -> None:
    entry = {**IND, "transforms": [{"name": "gaussian_noise", "std": 0.1}, "invert", {"name": "fgsm"}]}
    assert [method.name for method in suite(clean=entry).datasets["clean"].transforms] == [
        "gaussian_noise",
        "invert",
        "fgsm",
    ]
    with pytest.raises(SpecError, match="unknown method transforms/gausian_noise; did you mean"):
        suite(clean={**IND, "transforms": ["gausian_noise"]})


@pytest.mark.parametrize("limit", [0, -1, "all"])
def test_bounds(limit: Any) -> None:
    with pytest.raises(SpecError, match=r"datasets\.clean\.limit: input should be"):
        suite(clean={**IND, "limit": limit})
