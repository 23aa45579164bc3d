import os
import stat
from pathlib import Path

import pytest

from ray_app.errors import DataError
from ray_app.storage import HIDDEN, Place


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    # fsspec's in-memory store stands for any scheme that pyarrow itself lacks.
    return Place.of(tmp_path) if request.param == "disk" else Place.of(f"memory://bucket/{tmp_path.name}")


def test_what_is_written_is_read_listed_and_removed(folder: Place) -> None:
    (folder / "a" / "one.txt").write_bytes(b"12345")
    (folder / "a" / "b" / "two.txt").write_bytes(b"")
    assert (folder / "a").is_dir()
    assert (folder / "a" / "one.txt").is_file()
    assert not (folder / "c").exists()
    assert {(found.name, found.size) for found in (folder / "a").walk()} == {("one.txt", 5), ("b/two.txt", 0)}
    assert (folder / "a" / "one.txt").read_bytes(2) == b"12"
    assert (folder / "a" / "one.txt").stat().size == 5
    with (folder / "a" / "one.txt").open() as file:
        file.seek(3)
        assert file.read() == b"45"
    (folder / "a" / "one.txt").remove()
    (folder / "a" / "one.txt").remove()
    assert [found.name for found in folder.walk()] == ["a/b/two.txt"]
    folder.remove_tree()
    assert list(folder.walk()) == []


def test_overwriting_leaves_one_whole_file_and_no_temporary_one(folder: Place) -> None:
    place = folder / "x.bin"
    place.write_bytes(b"old")
    place.write_bytes(b"new and longer")
    assert place.read_bytes() == b"new and longer"
    assert not [found.name for found in folder.walk() if HIDDEN in found.name]


def test_of_several_writers_the_first_wins(folder: Place) -> None:
    place = folder / "which.json"
    assert place.write_first(b"first") == b"first"
    assert place.write_first(b"second") == b"first"
    assert [found.name for found in folder.walk()] == ["which.json"]


def test_a_path_is_made_absolute_and_variables_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    assert Place.of("$SOMEWHERE/x").uri == str(tmp_path / "x")
    assert Place.of(f"file://{tmp_path}/x").uri == str(tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    assert Place.of("x").path == tmp_path / "x"
    assert Place.of("~").path == Path.home()
    assert (Place.of("memory://bucket/a/b.JSON").name, Place.of("memory://bucket/a/b.JSON").suffix) == (
        "b.JSON",
        ".json",
    )


def test_a_link_is_not_followed_when_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert Place.of(tmp_path / "link").uri == str(tmp_path / "link")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$NO_SUCH_VARIABLE_HERE/x", "NO_SUCH_VARIABLE_HERE is not set"),
        ("nonsense://bucket/x", r"nonsense://bucket: cannot be opened"),
    ],
)
def test_what_nobody_knows_is_one_line(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Place.of(text)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    place = Place.of(tmp_path / "none")
    for read in (place.read_bytes, place.open, place.stream, place.stat):
        with pytest.raises(DataError, match=r"(No|no) such file") as caught:
            read()
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="is a folder"):
        Place.of(tmp_path).stat()
    with pytest.raises(DataError, match="must be on a disk"):
        _ = Place.of("memory://x/y").path


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(DataError, match="Permission denied"):
        Place.of(tmp_path / "x").write_bytes(b"1")
    tmp_path.chmod(stat.S_IRWXU)


def test_compressed_files_are_unpacked_by_their_suffix(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.gz").write_bytes(gzip.compress(b"content"))
    with Place.of(tmp_path / "a.gz").stream() as stream:
        assert stream.read() == b"content"
