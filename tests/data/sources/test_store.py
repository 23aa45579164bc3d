"""Sources and builds on an object store: moto's, on this machine."""

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_app import registry
from ray_app.data.build import build
from ray_app.data.dataset import open_dataset
from ray_app.data.sources import Source
from ray_app.errors import DataError
from ray_app.storage import Place
from tests.data.rows import images, spec, table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a store that nobody else uses."""
    moto = pytest.importorskip("moto.server", reason="needs moto's server: pip install moto flask flask-cors")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A fresh bucket, reached as a user would: by the usual variables of the environment."""
    import httpx

    name = f"bucket-{abs(hash(request.node.name)):x}"
    for variable, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(variable, value)
    httpx.put(f"{server}/{name}").raise_for_status()
    return Place.of(f"s3://{name}")


def copied(folder: Path, to: Place) -> Place:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            (to / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())
    return to


def rows(source: Source, size: int) -> list[tuple[Any, ...]]:
    reads = [read.batch for _, read in source.stream(source.units(size))]
    return [
        tuple(str(np.asarray(column[row]).tolist()) for column in batch.values())
        for batch in reads
        for row in range(len(batch["row_id"]))
    ]


def written(folder: Path, name: str) -> None:
    content = b"\n".join(json.dumps({"text": f"row {i} " * (i % 5), "n": i}).encode() for i in range(200))
    if name == "parquet":
        table(folder / "deep" / "a.parquet", 23)
        table(folder / "b.parquet", 9)
    elif name == "images":
        images(folder, 7)
    elif name == "jsonl":
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "a.jsonl").write_bytes(content)
        (folder / "b.jsonl.gz").write_bytes(gzip.compress(content))
    elif name == "webdataset":
        import tarfile

        folder.mkdir()
        with tarfile.open(folder / "a.tar", "w") as archive:
            for i in range(20):
                member = tarfile.TarInfo(f"{i}.txt")
                member.size = 3
                archive.addfile(member, io.BytesIO(b"abc"))
    else:
        folder.mkdir()
        (folder / "a.txt").write_text("one\ntwo\n\nthree")


@pytest.mark.parametrize("name", ["parquet", "images", "jsonl", "webdataset", "text"])
def test_rows_in_a_store_are_those_on_a_disk(bucket: Place, tmp_path: Path, name: str) -> None:
    written(tmp_path / "in", name)
    there = copied(tmp_path / "in", bucket / "some" / "where")
    options = {"by": "line"} if name == "text" else {}
    here = registry.build("sources", name, {"path": str(tmp_path / "in"), **options})
    for size in (3, 100):
        source = registry.build("sources", name, {"path": str(there), **options})
        assert rows(source, size) == rows(here, size)
    assert (
        source.fingerprint() == registry.build("sources", name, {"path": str(there), **options}).fingerprint()
    )
    files = {"parquet": "**/*.parquet", "jsonl": "**/*.jsonl*"}
    if name in files:
        pattern = registry.build("sources", name, {"path": f"{there}/{files[name]}"})
        assert rows(pattern, 50) == rows(here, 50)


def test_a_build_goes_from_a_store_to_a_store(bucket: Place, tmp_path: Path) -> None:
    written(tmp_path / "in", "jsonl")
    there = copied(tmp_path / "in", bucket / "in")
    what = spec(
        source={"name": "jsonl", "path": str(there)},
        unit_rows=50,
        splits={"a": 0.5, "b": 0.5},
        compute={"executor": "local"},
    )
    result = build(what, bucket / "out")
    assert (result.rows, result.rejected) == (400, 0)
    again = build(what, bucket / "out")
    assert again.resumed == again.units == result.units
    found = open_dataset(str(bucket / "out")).read()
    assert len(set(found["row_id"])) == 400
    (there / "deep" / "a.jsonl").write_bytes(b'{"text": "x", "n": 1}\n')
    with pytest.raises(DataError, match="the input changed"):
        build(what, bucket / "out")


def test_what_is_not_in_a_store_is_one_line(bucket: Place) -> None:
    for path, message in [
        (bucket / "gone.parquet", "no such file or folder"),
        (bucket / "*.parquet", "no files ending in"),
        (Place.of("s3://surely-no-such-bucket/x"), "surely-no-such-bucket"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            registry.build("sources", "parquet", {"path": str(path)}).units(5)
        assert "\n" not in str(caught.value)
