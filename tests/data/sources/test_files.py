import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_app import registry
from ray_app.data.arrow import objects, to_table
from ray_app.data.sources import _files
from ray_app.data.sources._files import find, fingerprint
from ray_app.data.sources.images import Images
from ray_app.data.sources.parquet import Parquet
from ray_app.errors import DataError, SpecError
from ray_app.storage import Place
from tests.data.rows import images, table


def test_names_are_relative_to_what_the_spec_names(tmp_path: Path) -> None:
    for name in ("a/x.parquet", "b/y.parquet", "b/.hidden.parquet", "_tmp/z.parquet", "b/note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in find(str(tmp_path), [".parquet"])] == ["a/x.parquet", "b/y.parquet"]
    assert [file.name for file in find(f"{tmp_path}/b/*.parquet", [".parquet"])] == ["y.parquet"]
    assert [file.name for file in find(str(tmp_path / "a" / "x.parquet"), [".parquet"])] == ["x.parquet"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*/x?.txt", ["a/x1.txt", "b/x2.txt"]),
        ("**/x*.txt", ["a/deep/x3.txt", "a/x1.txt", "b/x2.txt", "x0.txt"]),
        ("a/**", ["deep/x3.txt", "x1.txt", "y[1].txt"]),
        ("[!a]/*.txt", ["b/x2.txt"]),
        ("a/y[[]1].txt", ["y[1].txt"]),
    ],
)
@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_globs_mean_the_same_here_and_in_a_store(
    tmp_path: Path, scheme: str, pattern: str, found: list[str]
) -> None:
    root = Place.of(f"{scheme}{tmp_path}")
    for name in ("x0.txt", "a/x1.txt", "b/x2.txt", "a/deep/x3.txt", "a/y[1].txt"):
        (root / name).write_bytes(b"content")
    files = find(f"{root}/{pattern}", [".txt"])
    assert [file.name for file in files] == sorted(found)
    assert all(file.place.read_bytes() == b"content" and file.size == 7 for file in files)

    if not scheme:
        assert [file.name for file in find(f"{root}/a/y[1].txt", [])] == ["y[1].txt"]


def test_links_to_folders_are_not_followed_and_broken_links_are_files(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet")
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "b.parquet").symlink_to(tmp_path / "a.parquet")
    (tmp_path / "c.parquet").symlink_to(tmp_path / "gone.parquet")
    files = find(str(tmp_path), [".parquet"])
    assert [(file.name, file.size >= 0) for file in files] == [
        ("a.parquet", True),
        ("b.parquet", True),
        ("c.parquet", False),
    ]


def test_paths_that_lead_nowhere_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    for path, message in [
        (str(tmp_path / "gone"), "no such file or folder"),
        (f"{tmp_path}/*.parquet", "no files ending in .parquet"),
        ("$NOWHERE/x", "variable NOWHERE is not set"),
        ("nosuch://bucket/x", "nosuch://bucket: cannot be opened"),
    ]:
        with pytest.raises(DataError, match=message):
            find(path, [".parquet"])
    monkeypatch.setenv("NOWHERE", str(tmp_path))
    table(tmp_path / "x.parquet")
    assert [file.name for file in find("${NOWHERE}/x.parquet", [])] == ["x.parquet"]


def test_a_large_file_is_not_read_whole_for_its_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "HASHED_BYTES", 10)
    monkeypatch.setattr(_files, "_ENDS", 4)
    path = tmp_path / "large"
    path.write_bytes(b"begin middle end")
    os.utime(path, ns=(1, 1))
    before = fingerprint(find(str(path), [])[0])
    path.write_bytes(b"begin middle END")
    os.utime(path, ns=(1, 1))
    _files._fingerprint.cache_clear()
    assert fingerprint(find(str(path), [])[0]) != before


def test_parquet_reads_no_more_columns_and_row_groups_than_it_needs(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", 100, group=10)
    source = Parquet(path=str(tmp_path / "a.parquet"), columns=["value"])
    unit = source.units(7)[13]
    batch = source.read(unit).batch
    assert list(batch) == ["row_id", "value"]
    assert batch["value"].tolist() == list(range(91, 98))
    with pytest.raises(DataError, match="has no column 'hue'"):
        _ = Parquet(path=str(tmp_path / "a.parquet"), columns=["hue"]).columns


def test_a_file_that_shrank_or_broke_is_told(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", 50)
    source = Parquet(path=str(path))
    unit = source.units(25)[1]
    table(path, 30)
    with pytest.raises(DataError, match="has no row 49 any more"):
        source.read(unit)
    path.write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(DataError, match="not readable as Parquet"):
        Parquet(path=str(path)).units(5)


def test_rows_without_a_number_where_one_must_be_are_rejected(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [1, None, 3], "text": ["a", "b", None]}), tmp_path / "a.parquet")
    source = Parquet(path=str(tmp_path / "a.parquet"))
    read = source.read(source.units(9)[0])
    assert read.batch["label"].tolist() == [1, 3]
    assert read.batch["text"].tolist() == ["a", None]
    assert [(bad.row_id, bad.reason) for bad in read.rejected] == [("a.parquet#1", "no value in label")]


def test_a_file_with_other_columns_than_the_first_is_refused_and_a_narrower_number_widened(
    tmp_path: Path,
) -> None:
    pq.write_table(pa.table({"n": [1, 2], "text": ["a", "b"]}), tmp_path / "a.parquet")
    narrow = {"text": pa.array(["c"], pa.large_string()), "n": pa.array([3], pa.int32())}
    pq.write_table(pa.table(narrow), tmp_path / "b.parquet")
    source = Parquet(path=str(tmp_path))
    reads = [read.batch for _, read in source.stream(source.units(9))]
    assert [batch["n"].dtype for batch in reads] == [np.int64, np.int64]
    assert [value for batch in reads for value in batch["text"]] == ["a", "b", "c"]
    for other, message in [
        ({"n": [1.5], "text": ["d"]}, "'n' is double"),
        ({"n": [4]}, "has no column 'text'"),
    ]:
        pq.write_table(pa.table(other), tmp_path / "c.parquet")
        source = Parquet(path=str(tmp_path))
        with pytest.raises(DataError, match=message):
            list(source.stream(source.units(9)))


@pytest.mark.parametrize("name", ["images", "parquet"])
def test_a_unit_of_large_rows_has_fewer_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rng = np.random.default_rng(0)
    if name == "images":
        for index, size in enumerate([10, 10, 900, 300, 300, 300, 300, 2000, 10, 10, 10]):
            (tmp_path / f"{index:02d}.png").write_bytes(rng.bytes(size))
        expected = [3, 3, 1, 1, 3]
    else:
        pq.write_table(pa.table({"x": [rng.bytes(400) for _ in range(11)]}), tmp_path / "a.parquet")
        expected = [2, 2, 2, 2, 2, 1]
    monkeypatch.setattr(f"ray_app.data.sources.{'_folders' if name == 'images' else name}.UNIT_BYTES", 1000)
    source = registry.build("sources", name, {"path": str(tmp_path)})
    assert [len(unit) for unit in source.units(100)] == expected
    assert [len(unit) for unit in source.units(1)] == [1] * 11
    assert sum(len(read.batch["row_id"]) for _, read in source.stream(source.units(100))) == 11


def test_units_of_one_build_may_differ_in_shape(tmp_path: Path) -> None:
    batches = [
        {"x": np.arange(12.0).reshape(2, 2, 3), "text": objects([None, None])},
        {"x": np.arange(6.0).reshape(1, 3, 2), "text": objects([b"bytes"])},
        {"x": objects([np.zeros(2), np.zeros((1, 3))]), "text": objects(["a", "b"])},
    ]
    for number, batch in enumerate(batches):
        pq.write_table(to_table(batch), tmp_path / f"{number}.parquet")
    source = Parquet(path=str(tmp_path))
    reads = [read.batch for _, read in source.stream(source.units(9))]
    assert [value.shape for batch in reads for value in batch["x"]] == [(2, 3), (2, 3), (3, 2), (2,), (1, 3)]
    np.testing.assert_array_equal(reads[1]["x"], batches[1]["x"])
    assert [value for batch in reads for value in batch["text"]] == [None, None, b"bytes", "a", "b"]


def test_images_take_folders_for_classes(tmp_path: Path) -> None:
    images(tmp_path, 6)
    assert Images(path=str(tmp_path)).labels == ["cat", "dog"]
    chosen = Images(path=str(tmp_path), classes=["dog"])
    read = chosen.read(chosen.units(9)[0])
    assert read.batch["row_id"].tolist() == ["dog/001.png", "dog/003.png", "dog/005.png"]
    assert read.batch["label"].tolist() == [0, 0, 0]
    assert Images(path=str(tmp_path / "cat")).columns == ["image"]
    with pytest.raises(DataError, match="no images in a folder 'bird' \\(folders: cat, dog\\)"):
        _ = Images(path=str(tmp_path), classes=["bird"]).labels


def test_a_changed_folder_is_noticed_by_the_unit_that_it_changed(tmp_path: Path) -> None:
    images(tmp_path, 6)
    source = Images(path=str(tmp_path))
    first, last = source.units(3)
    (tmp_path / "dog" / "005.png").write_bytes(b"other")
    assert len(source.read(first).batch["image"]) == 3
    with pytest.raises(DataError, match="changed since the run was planned"):
        source.read(last)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sklearn", {"dataset": "mnist"}, "unknown dataset 'mnist' .known: digits"),
        ("sklearn", {"dataset": "digits", "stride": 0}, "stride must be at least 1"),
        ("sklearn", {"dataset": "photo_patches", "size": 500}, "size must be 1..427"),
        ("parquet", {"path": ""}, "path must be a file"),
        ("parquet", {"path": "x", "columns": "label"}, "columns must be a list"),
        ("images", {"path": 3}, "path must be a folder"),
        ("generator", {"generator": {}, "rows": 3}, "needs a `name`"),
        ("generator", {"generator": "nosuch", "rows": 3}, "unknown method generators/nosuch"),
        ("generator", {"generator": "nosuch", "rows": 0}, "rows must be at least 1"),
        ("parquet", {"pth": "x"}, "has no option 'pth'; did you mean 'path'"),
    ],
)
def test_options_are_checked_before_anything_is_read(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        registry.build("sources", name, options)
