import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ray_app.data import dataset as module
from ray_app.data.dataset import open_dataset
from ray_app.errors import DataError, SpecError
from ray_app.spec import load
from ray_app.spec.dataset import DatasetSpec
from tests.data.rows import digits, images, spec, table

ROOT = Path(__file__).parents[2]
SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}


def of(path: Path, **content: Any) -> module.Dataset:
    return open_dataset(spec(source={"name": "parquet", "path": str(path)}, **content))


@pytest.mark.parametrize("path", sorted((ROOT / "datasets").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_dataset_in_the_folder_says_what_it_may(path: Path) -> None:
    load(path, DatasetSpec)


def test_splits_part_the_rows_and_do_not_depend_on_the_size_of_units() -> None:
    whole = open_dataset(digits(splits=SPLITS))
    small = open_dataset(digits(splits=SPLITS, unit_rows=7))
    parts = {split: set(whole.read(split)["row_id"]) for split in SPLITS}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 1797
    assert parts == {split: set(small.read(split)["row_id"]) for split in SPLITS}
    assert parts["train"] != set(open_dataset(digits(splits=SPLITS, seed=1)).read("train")["row_id"])


def test_batches_hold_the_rows_of_read_in_its_order() -> None:
    dataset = open_dataset(digits(splits=SPLITS, unit_rows=100))
    batches = list(dataset.batches("train", batch_size=64))
    assert {len(batch["label"]) for batch in batches[:-1]} == {64}
    for column, whole in dataset.read("train").items():
        np.testing.assert_array_equal(np.concatenate([batch[column] for batch in batches]), whole)


def test_limit_reads_no_more_units_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_app.data.sources.sklearn import Sklearn

    read: list[int] = []
    original = Sklearn.read
    monkeypatch.setattr(
        Sklearn, "read", lambda self, unit: (read.append(unit.start), original(self, unit))[1]
    )
    assert len(open_dataset(digits(unit_rows=10)).read(limit=15)["label"]) == 15
    assert read == [0, 10]


def test_classes_keep_their_numbers_and_names() -> None:
    dataset = open_dataset(digits(classes=[7, 2]))
    assert set(dataset.read()["label"].tolist()) == {2, 7}
    assert dataset.labels[7] == "7"


def test_a_derivation_inherits_splits_labels_and_row_ids(tmp_path: Path) -> None:
    parent = tmp_path / "parent.yaml"
    parent.write_text(
        yaml.safe_dump(digits(splits=SPLITS).model_dump(mode="json", exclude_none=True), sort_keys=False)
    )
    child = open_dataset(spec(parent=str(parent), classes=[1]))
    assert child.splits == list(SPLITS)
    inside = set(open_dataset(parent).read("test")["row_id"])
    assert set(child.read("test")["row_id"]) == {row for row in child.read()["row_id"] if row in inside}
    one = open_dataset(spec(parent=str(parent), split="test"))
    assert set(one.read()["row_id"]) == inside
    assert one.splits == []


def test_a_fingerprint_changes_with_the_content_and_not_with_the_place_or_the_units(tmp_path: Path) -> None:
    here, there = (of(table(tmp_path / place / "a.parquet")) for place in ("here", "there"))
    assert here.fingerprint == there.fingerprint
    assert of(tmp_path / "here" / "a.parquet", unit_rows=3, max_rejected=0.5).fingerprint == here.fingerprint
    assert of(tmp_path / "here" / "a.parquet", seed=1).fingerprint != here.fingerprint
    assert of(table(tmp_path / "here" / "a.parquet", value=np.ones(10))).fingerprint != there.fingerprint


def test_columns_are_renamed_and_what_they_replace_is_gone(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", target=np.arange(10) % 2)
    dataset = of(path, columns={"label": "target", "note": "text"})
    batch = dataset.read(require=("label", "note"))
    assert list(batch) == dataset.columns == ["row_id", "value", "label", "note"]
    assert batch["label"].tolist() == [0, 1] * 5
    assert dataset.labels == ["0", "1"]


def test_labels_that_are_names_are_numbered_as_the_spec_says(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", rows=4, label=["b", "a", "b", None])
    with pytest.raises(DataError, match="list the class names in order in `labels:`"):
        of(path).read()
    dataset = of(path, labels=["a", "b"], max_rejected=0.25)
    assert dataset.read()["label"].tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"a\.parquet#3: no label"):
        of(path, labels=["a", "b"]).read()
    with pytest.raises(DataError, match=r"a\.parquet#0: label 'b' is none of the 2 in `labels`"):
        of(path, labels=["a", "c"]).read()


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ([0, 1, 5], "label 5 is none of the classes 0..2"),
        ([0, -1, 1], "label -1 is none of the classes 0..2"),
        ([0.0, 1.5, 2.0], "label 1.5 is no class number"),
        ([0.0, float("nan"), 2.0], "no label"),
        ([0, None, 2], "no value in label"),
    ],
)
def test_a_bad_label_names_its_row(tmp_path: Path, label: list[Any], reason: str) -> None:
    path = table(tmp_path / "a.parquet", rows=3, label=label)
    with pytest.raises(DataError, match=reason) as caught:
        of(path, labels=["a", "b", "c"]).read()
    assert "a.parquet#" in str(caught.value)


def test_bad_rows_under_the_limit_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images(tmp_path, 10)
    (tmp_path / "cat" / "004.png").write_bytes((tmp_path / "cat" / "002.png").read_bytes()[:90])
    dataset = open_dataset(spec(source={"name": "images", "path": str(tmp_path)}, max_rejected=0.1))
    assert len(dataset.read()["image"]) == 9
    assert "1 of 10 rows rejected; first cat/004.png: not a readable image" in caplog.text


def test_what_is_missing_gives_one_line(tmp_path: Path) -> None:
    patches = open_dataset(spec(source={"name": "sklearn", "dataset": "photo_patches"}))
    with pytest.raises(DataError, match=r"has no column 'label' .*say which holds it with `columns"):
        patches.read(require=("label",))
    with pytest.raises(SpecError, match="no split 'tset'; did you mean 'test'"):
        open_dataset(digits(splits=SPLITS)).read("tset")
    with pytest.raises(DataError, match="no rows in classes \\[12\\]"):
        open_dataset(digits(classes=[12])).read()
    with pytest.raises(DataError, match=r"holds no dataset\.json"):
        open_dataset(tmp_path)
    with pytest.raises(SpecError, match="no such file"):
        open_dataset(tmp_path / "none.yaml")


def test_a_dataset_that_is_its_own_parent_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"name: a\nparent: {path}\n")
    with pytest.raises(SpecError, match="is one its own parent"):
        open_dataset(path)


def test_more_than_fits_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 2**16)
    with pytest.raises(DataError, match="read it in batches, or give a limit"):
        open_dataset(digits(unit_rows=500)).read()
    assert len(open_dataset(digits(unit_rows=500)).read(limit=100)["label"]) == 100


IS_LIBRARY = (
    "import datasets; assert datasets.__file__ and hasattr(datasets, 'load_dataset'), datasets.__path__"
)


def test_datasets_is_the_library_when_python_runs_in_the_projects_root() -> None:
    # `python -m` and `-c` put the working directory first on the path, where a folder `datasets` lies.
    done = subprocess.run([sys.executable, "-c", IS_LIBRARY], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.cluster
def test_datasets_is_the_library_in_a_ray_worker_with_a_working_directory(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    (folder / "datasets").mkdir(parents=True)
    (folder / "datasets" / "digits.yaml").write_text("name: digits\n")
    program = f"""
import os, ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
         runtime_env={{"working_dir": {str(folder)!r}}})
@ray.remote
def check():
    import os
    assert os.path.isdir("datasets"), os.getcwd()
    {IS_LIBRARY}
    return datasets.__name__
assert ray.get(check.remote(), timeout=60) == "datasets"
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr[-2000:]
