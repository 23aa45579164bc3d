"""Datasets of the hub's library, from folders: what is saved there is what is read."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import datasets
from ray_app import registry
from ray_app.data.dataset import open_dataset
from ray_app.data.sources import Source
from ray_app.errors import DataError, SpecError
from ray_app.spec import Method
from ray_app.spec.dataset import DatasetSpec


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def made(count: int = 11, **columns: Any) -> datasets.Dataset:
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    content = {"text": [f"text {i}" for i in range(count)], "label": [i % 2 for i in range(count)]}
    kinds = {name: kind for name, (kind, _) in columns.items()}
    values = {name: value for name, (_, value) in columns.items()}
    return datasets.Dataset.from_dict(
        {**content, **values}, features=datasets.Features({**features, **kinds})
    )


def open_source(folder: Path, **options: Any) -> Source:
    return registry.build("sources", "hub", {"dataset": str(folder), **options})


@pytest.mark.parametrize("size", [1, 4, 100])
def test_rows_and_labels_are_those_that_were_saved(tmp_path: Path, size: int) -> None:
    made().save_to_disk(tmp_path / "reviews")
    source = open_source(tmp_path / "reviews")
    reads = [read.batch for _, read in source.stream(source.units(size))]
    assert [row for batch in reads for row in batch["row_id"]] == [f"reviews/train#{i}" for i in range(11)]
    assert [text for batch in reads for text in batch["text"]] == [f"text {i}" for i in range(11)]
    assert [label for batch in reads for label in batch["label"]] == [i % 2 for i in range(11)]
    assert source.labels == ["neg", "pos"]
    assert source.columns == ["text", "label"]


def test_a_folder_of_files_and_a_choice_of_columns(tmp_path: Path) -> None:
    made().to_parquet(tmp_path / "reviews" / "test.parquet")
    source = open_source(tmp_path / "reviews", split="test", columns=["text"])
    assert source.columns == ["text"]
    assert source.read(source.units(3)[3]).batch["text"].tolist() == ["text 9", "text 10"]


def test_images_are_decoded_by_the_engine(tmp_path: Path) -> None:
    pictures = [Image.fromarray(np.full((3, 4, 3), i, np.uint8)) for i in range(4)]
    content = io.BytesIO()
    pictures[3].save(content, "PNG")
    (tmp_path / "three.png").write_bytes(content.getvalue())
    columns = [*pictures[:3], str(tmp_path / "three.png")]
    made(4, image=(datasets.Image(), columns)).save_to_disk(tmp_path / "pictures")
    method = Method(name="hub", options={"dataset": str(tmp_path / "pictures")})
    batch = open_dataset(DatasetSpec(name="pictures", source=method)).read()
    assert batch["image"].shape == (4, 3, 4, 3)
    assert batch["image"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_the_fingerprint_follows_the_rows_and_not_the_place(tmp_path: Path) -> None:
    made().save_to_disk(tmp_path / "a" / "same")
    made().save_to_disk(tmp_path / "b" / "same")
    made(12).save_to_disk(tmp_path / "c" / "same")
    first, again, other = (open_source(tmp_path / name / "same").fingerprint() for name in "abc")
    assert first == again != other


def test_nulls_and_broken_images_cost_a_row(tmp_path: Path) -> None:
    rows = made(3, n=(datasets.Value("int64"), [1, None, 3]))
    rows.save_to_disk(tmp_path / "rows")
    source = open_source(tmp_path / "rows")
    read = source.read(source.units(9)[0])
    assert read.batch["n"].tolist() == [1, 3]
    assert [(bad.row_id, bad.reason) for bad in read.rejected] == [("rows/train#1", "no value in n")]


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    made().to_parquet(tmp_path / "reviews" / "train.parquet")
    for options, message in [
        ({"split": "validation"}, "cannot be loaded"),
        ({"columns": ["stars"]}, r"has no column 'stars' .columns: text, label"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            open_source(tmp_path / "reviews", **options).units(5)
        assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: cannot be loaded"):
        open_source(tmp_path / "empty").units(5)
    with pytest.raises(SpecError, match="dataset must be a name or a folder"):
        registry.build("sources", "hub", {"dataset": ""})
