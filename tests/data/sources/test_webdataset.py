"""Tars of samples: what becomes of their members, and of damaged ones."""

import gzip
import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from ray_app import registry
from ray_app.data.dataset import open_dataset
from ray_app.data.sources import Read, Source
from ray_app.errors import DataError
from ray_app.spec import Method
from ray_app.spec.dataset import DatasetSpec
from ray_app.storage import Place


def archive(path: Path, members: list[tuple[str, bytes]], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def open_source(path: Path | str, **options: Any) -> Source:
    return registry.build("sources", "webdataset", {"path": str(path), **options})


def whole(source: Source, size: int = 1000) -> list[Read]:
    return [read for _, read in source.stream(source.units(size))]


def picture(value: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(content, "PNG")
    return content.getvalue()


def sound() -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.full(100, 0.25), 8000, format="FLAC")
    return content.getvalue()


def test_members_become_columns_and_the_engine_decodes_them(tmp_path: Path) -> None:
    members = [
        part
        for i in range(5)
        for part in [
            (f"deep/{i}.left.PNG", picture(i)),
            (f"deep/{i}.flac", sound()),
            (f"deep/{i}.cls", f"{i % 2}\n".encode()),
            (f"deep/{i}.txt", f"text {i} ä".encode()),
            (f"deep/{i}.json", b'{"x": %d, "name": "n", "key": "ours"}' % i),
            (f"deep/{i}.npy", b"left out"),
            (f"deep/.{i}.hidden", b"left out"),
        ]
    ]
    archive(tmp_path / "a.tar", members, format=tarfile.GNU_FORMAT)
    method = Method(name="webdataset", options={"path": str(tmp_path)})
    batch = open_dataset(DatasetSpec(name="w", source=method, unit_rows=2)).read()
    assert batch["key"].tolist() == [f"deep/{i}" for i in range(5)]
    assert batch["image"].shape == (5, 4, 5, 3)
    assert batch["image"][:, 0, 0, 0].tolist() == list(range(5))
    assert [len(waveform) for waveform in batch["audio"]] == [100] * 5
    assert batch["label"].tolist() == [0, 1, 0, 1, 0]
    assert batch["text"].tolist()[3] == "text 3 ä"
    assert batch["x"].tolist() == list(range(5))
    content = (tmp_path / "a.tar").read_bytes()
    for row_id, key in zip(batch["row_id"], batch["key"], strict=True):
        at = int(row_id.removeprefix("a.tar@"))
        assert content[at:].startswith(f"{key}.left.PNG".encode())


def test_long_names_in_the_way_of_pax_and_gnu(tmp_path: Path) -> None:
    for number, layout in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        names = [f"{'folder' * 40}{i}ä" for i in range(7)]
        path = archive(tmp_path / f"{number}.tar", [(f"{name}.txt", b"x") for name in names], format=layout)
        for size in (1, 3, 10):
            assert [key for read in whole(open_source(path), size) for key in read.batch["key"]] == names


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ([("7.cls", b"1")], "7: no member for text .members: cls"),
        ([("7.txt", b"a"), ("7.txt", b"b"), ("7.cls", b"1")], "has two members txt"),
        ([("7.txt", b"a"), ("7.left.txt", b"b"), ("7.cls", b"1")], "has two members for text"),
        ([("7.txt", b"\xff"), ("7.cls", b"1")], "7: not UTF-8"),
        ([("7.txt", b"a"), ("7.cls", b"1"), ("7.json", b"{broken")], "7: Expecting"),
        ([("7.txt", b"a"), ("7.cls", b"1"), ("7.json", b"[]")], "no object but list"),
        ([("7.txt", b"x" * 5000), ("7.cls", b"1")], "txt of 5,000 bytes; the source's `max_bytes` is 1,000"),
        ([("../../etc/7.txt", b"a"), ("../../etc/7.cls", b"1")], "leads outside"),
        ([("/etc/7.txt", b"a"), ("/etc/7.cls", b"1")], "leads outside"),
    ],
)
def test_a_bad_sample_costs_one_row(tmp_path: Path, extra: list[tuple[str, bytes]], reason: str) -> None:
    good = [part for i in range(5) for part in [(f"{i}.txt", b"good"), (f"{i}.cls", b"0")]]
    path = archive(tmp_path / "a.tar", [*good[:6], *extra, *good[6:]])
    for size in (1, 100):
        reads = whole(open_source(path, max_bytes=1000), size)
        assert [key for read in reads for key in read.batch["key"]] == list("01234")
        (bad,) = [bad for read in reads for bad in read.rejected]
        assert re.search(reason, bad.reason), bad.reason
        assert bad.row_id.startswith("a.tar@")


@pytest.mark.parametrize("packed", ["tar", "tar.gz"])
@pytest.mark.parametrize("damage", ["cut in a member", "cut in a header", "a broken header", "no tar"])
def test_a_damaged_archive_is_one_line(tmp_path: Path, packed: str, damage: str) -> None:
    # 512 bytes of header and 512 of content each.
    content = archive(tmp_path / "good", [(f"{i}.txt", b"x" * 300) for i in range(20)]).read_bytes()
    broken = {
        "cut in a member": content[: 9 * 1024 + 600],
        "cut in a header": content[: 9 * 1024 + 100],
        "a broken header": content[: 9 * 1024] + b"?" * 300 + content[9 * 1024 + 300 :],
        "no tar": b"text " * 1000,
    }[damage]
    path = tmp_path / f"a.{packed}"
    path.write_bytes(gzip.compress(broken) if packed == "tar.gz" else broken)
    with pytest.raises(DataError, match=r"a.tar(.gz)?: (damaged after|not a readable tar)"):
        open_source(path).units(5)
    if packed == "tar.gz":
        path.write_bytes(gzip.compress(content)[:150])
        with pytest.raises(DataError, match=r"damaged after|not a readable tar"):
            open_source(path).units(5)


def test_archives_without_samples_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no samples"):
        open_source(archive(tmp_path / "a.tar", [(".hidden", b"")])).units(5)
    with pytest.raises(DataError, match="no member that is known"):
        _ = open_source(archive(tmp_path / "b.tar", [("a.bin", b"")])).columns
    (tmp_path / "c.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"c.tar: not a readable tar .empty file"):
        open_source(tmp_path / "c.tar").units(5)


def test_planning_a_plain_archive_reads_headers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(tmp_path / "a.tar", [(f"{i}.txt", b"x" * 100_000) for i in range(20)])
    read: list[int] = []
    opened = Place.open

    class Counting:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def seek(self, at: int) -> None:
            self.file.seek(at)

        def read(self, n: int) -> bytes:
            read.append(n)
            return bytes(self.file.read(n))

    monkeypatch.setattr(Place, "open", lambda place: Counting(opened(place)))
    source = open_source(path)
    units = source.units(3)
    assert sum(read) < 30_000
    read.clear()
    _ = source.columns
    read.clear()
    assert source.read(units[5]).batch["key"].tolist() == ["15", "16", "17"]
    assert sum(read) < 310_000
