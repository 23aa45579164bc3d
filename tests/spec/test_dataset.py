from typing import Any

import pytest

from ray_app.errors import SpecError
from ray_app.spec import parse
from ray_app.spec.dataset import DatasetSpec

SOURCE = {"name": "sklearn", "dataset": "digits"}
ENCODER = {"name": "timm", "model": "test_resnet"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"source": SOURCE, "lables": ["a"]}, "lables: unknown key; did you mean 'labels'"),
        (
            {"source": {**SOURCE, "siz": 3}},
            "source: sources/sklearn has no option 'siz'; did you mean 'size'",
        ),
        ({"source": {"name": "sklern"}}, "unknown method sources/sklern; did you mean 'sklearn'"),
        ({"source": {"name": "parquet"}}, "sources/parquet needs the option 'path'"),
        ({}, "either `source:` or `parent:`"),
        ({"source": SOURCE, "parent": "x.yaml"}, "either `source:` or `parent:`"),
        ({"source": SOURCE, "split": "train"}, "a source has none"),
        ({"source": SOURCE, "splits": {"a": 0.5, "b": 0.6}}, "shares sum to 1.1"),
        ({"source": SOURCE, "splits": {"a": 1.5, "b": -0.5}}, "greater than 0|less than or equal to 1"),
        ({"source": SOURCE, "unit_rows": 0}, "unit_rows: .* got 0"),
        ({"source": SOURCE, "unit_rows": "many"}, "unit_rows: .* got 'many'"),
        ({"source": SOURCE, "compute": {"cpus": 2}}, "compute.cpus: unknown key"),
        ({"source": SOURCE, "encoder": ENCODER, "bundle": "b"}, "give one of them"),
        ({"source": SOURCE, "layers": True}, "layers: needs `encoder` or `bundle`"),
        ({"source": SOURCE, "scorers": ["detectors/knn"]}, "reads embeddings"),
        ({"source": SOURCE, "encoder": ENCODER, "scorers": ["detectors/knn"]}, "has learned nothing"),
        ({"source": SOURCE, "encoder": ENCODER, "scorers": ["detectors/knnn"]}, "did you mean 'knn'"),
        ({"source": SOURCE, "scorers": ["nosuch"]}, "unknown method scorers/nosuch"),
        (
            {"source": SOURCE, "bundle": "b", "scorers": [{"name": "detectors/knn", "k": 3}]},
            "comes from the bundle as it is",
        ),
        (
            {"source": SOURCE, "encoder": ENCODER, "scorers": [{"name": "detectors/knn", "fit": 3}]},
            "`fit` names a split",
        ),
        (
            {"source": SOURCE, "bundle": "b", "scorers": ["detectors/knn", "detectors/knn"]},
            "'knn' is there twice",
        ),
    ],
)
def test_what_a_dataset_may_not_say_is_refused_in_one_line(content: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse({"name": "x", **content}, DatasetSpec, "x.yaml")
    assert str(caught.value).startswith("x.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_spec_survives_its_own_writing() -> None:
    content = {
        "name": "x",
        "source": SOURCE,
        "splits": {"train": 0.5, "test": 0.5},
        "encoder": ENCODER,
        "scorers": [{"name": "detectors/mahalanobis", "layers": "last", "fit": "train"}],
    }
    spec = parse(content, DatasetSpec, "x.yaml")
    assert parse(spec.model_dump(mode="json"), DatasetSpec, "x.yaml") == spec
