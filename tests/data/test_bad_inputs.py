"""Everything that can be wrong with an input: a bad row costs one row, a bad file or place is one line."""

import gzip
import io
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from ray_app.data.build import build
from ray_app.data.dataset import open_dataset
from ray_app.errors import DataError, SpecError
from tests.data.rows import ENCODER, spec

Make = Callable[[Path], dict[str, Any]]
LOCAL = {"executor": "local"}
GOOD = 4


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def noise(seed: int = 0, size: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(size, size, 3), dtype=np.uint8)


def sound(samples: Any, rate: int = 8000) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.asarray(samples), rate, format="WAV", subtype="FLOAT")
    return content.getvalue()


def png_of_no_pixels() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 5)) + chunk(b"IEND", b"")


def picture(content: bytes, name: str = "bad.png") -> Make:
    """Four good pictures and this one."""

    def make(folder: Path) -> dict[str, Any]:
        for index in range(GOOD):
            (folder / f"good{index}.png").write_bytes(encoded(noise(index)))
        (folder / name).write_bytes(content)
        return {"name": "images", "path": str(folder)}

    return make


def link(target: str) -> Make:
    def make(folder: Path) -> dict[str, Any]:
        source = picture(b"")(folder)
        (folder / "bad.png").unlink()
        (folder / "bad.png").symlink_to(folder / target)
        return source

    return make


def badly_named(folder: Path) -> dict[str, Any]:
    source = picture(PNG)(folder)
    (folder / "bad.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    return source


def wave(content: bytes) -> Make:
    def make(folder: Path) -> dict[str, Any]:
        for index in range(GOOD):
            (folder / f"good{index}.wav").write_bytes(sound(np.full(100, index / 10)))
        (folder / "bad.wav").write_bytes(content)
        return {"name": "audio", "path": str(folder)}

    return make


def line(content: bytes, *, name: str = "a.jsonl", **options: Any) -> Make:
    """Four good lines, this one among them."""

    def make(folder: Path) -> dict[str, Any]:
        good = [json.dumps({"text": f"good {i}", "n": i, "label": i % 2}).encode() for i in range(GOOD)]
        whole = b"\n".join([*good[:2], content, *good[2:]])
        (folder / name).write_bytes(gzip.compress(whole) if name.endswith(".gz") else whole)
        types = {"text": "text", "n": "int", "label": "float"}
        return {"name": "jsonl", "path": str(folder), "types": types, **options}

    return make


def cells(content: str) -> Make:
    def make(folder: Path) -> dict[str, Any]:
        rows = ["text,n", "good,0", "good,1", content, "good,2", "good,3"]
        (folder / "a.csv").write_text("\n".join(rows))
        return {"name": "csv", "path": str(folder), "types": {"n": "int"}}

    return make


def column(name: str, values: list[Any], kind: pa.DataType | None = None, **spec_keys: Any) -> Make:
    """A Parquet column of four good values and a bad one."""

    def make(folder: Path) -> dict[str, Any]:
        pq.write_table(
            pa.table({name: pa.array(values, kind), "x": [0.5] * len(values)}), folder / "a.parquet"
        )
        return {"name": "parquet", "path": str(folder), "spec": spec_keys}

    return make


def text_of_parquet(folder: Path) -> dict[str, Any]:
    offsets, content = pa.py_buffer(np.array([0, 1, 2, 4, 5, 6], np.int32)), pa.py_buffer(b"ab\xff\xfecd")
    texts = pa.Array.from_buffers(pa.string(), 5, [None, offsets, content])
    pq.write_table(pa.table({"text": texts}), folder / "a.parquet")
    return {"name": "parquet", "path": str(folder)}


def sample(*members: tuple[str, bytes]) -> Make:
    """A tar of four good samples and this one."""

    def make(folder: Path) -> dict[str, Any]:
        good = [(f"{i}.{kind}", b"1") for i in range(GOOD) for kind in ("txt", "cls")]
        with tarfile.open(folder / "a.tar", "w") as archive:
            for name, content in [*good, *members]:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return {"name": "webdataset", "path": str(folder)}

    return make


def plain_text(by: str, content: bytes) -> Make:
    def make(folder: Path) -> dict[str, Any]:
        glue = {"line": b"\n", "paragraph": b"\n\n"}
        if by == "file":
            for index in range(GOOD):
                (folder / f"good{index}.txt").write_text("good")
            (folder / "bad.txt").write_bytes(content)
        else:
            (folder / "a.txt").write_bytes(glue[by].join([b"good", b"good", content, b"good", b"good"]))
        return {"name": "text", "path": str(folder), "by": by}

    return make


JPEG = encoded(noise(), "JPEG")
PNG = encoded(noise())
WEBP = encoded(noise(), "WEBP")
TONE = np.sin(np.arange(4000) / 5) / 2
BAD_ROWS: dict[str, tuple[Make, str]] = {
    "a JPEG of no bytes": (picture(b"", "bad.jpg"), "not a readable image"),
    "a JPEG cut short": (picture(JPEG[: len(JPEG) // 2], "bad.jpg"), "not a readable image .*[Tt]runcated"),
    "a PNG cut short": (picture(PNG[: len(PNG) // 2]), "not a readable image"),
    "a WebP that is corrupt": (
        picture(WEBP[:20] + b"?" * 200, "bad.webp"),
        "not a readable image",
    ),
    "a text called .png": (picture(b"only text"), "not a readable image"),
    "a decompression bomb": (
        picture(encoded(Image.new("1", (9000, 9000)))),
        "9000 x 9000 pixels; expected 1 to",
    ),
    "an image of no pixels": (picture(png_of_no_pixels()), "not a readable image|0 x 5 pixels"),
    "an image of floats": (
        picture(encoded(np.ones((3, 3), np.float32), "TIFF"), "bad.tif"),
        "floating-point",
    ),
    "a link to nowhere": (link("gone.png"), "No such file"),
    "a link to itself": (link("bad.png"), "symbolic links"),
    "an image whose name is no UTF-8": (badly_named, "its name is no UTF-8; rename it"),
    "an image that is null": (column("image", [PNG, PNG, None, PNG, PNG]), "no image"),
    "a sound with NaN": (wave(sound([0.1, np.nan, 0.2])), "1 samples that are NaN"),
    "a sound with infinity": (wave(sound([0.1, np.inf])), "NaN or infinite"),
    "a sound of no samples": (wave(sound([])), "without a sample"),
    "a sound of no bytes": (wave(b""), "not a readable sound"),
    "a text called .wav": (wave(b"only text"), "not a readable sound"),
    "a sound cut short": (wave(sound(TONE)[:3000]), "is it truncated"),
    "a sound that is too long": (wave(sound(np.zeros(1000 * 601), 1000)), "601 seconds; the limit is 600"),
    "a sound at no usual rate": (wave(sound(TONE, 200)), "sample rate of 200 Hz"),
    "broken JSON": (line(b'{"text": "x", "n": '), "broken JSON .Expecting value at character 19"),
    "broken JSON, packed": (line(b'{"text": "x", "n": ', name="a.jsonl.gz"), "broken JSON"),
    "JSON that is a list": (line(b'["x", 1]'), "no object but list"),
    "JSON with text for a number": (line(b'{"text": "x", "n": "1"}'), "n: '1' where the column holds whole"),
    "JSON with a number for text": (line(b'{"text": 7, "n": 1}'), "text: 7 where the column holds text"),
    "JSON with a null for a number": (line(b'{"text": "x", "n": null}'), "no value in n"),
    "JSON without a label": (line(b'{"text": "x", "n": 5}'), "no label"),
    "JSON with half a surrogate pair": (line(b'{"text": "\\ud83d", "n": 5}'), "half a surrogate pair"),
    "JSON with a number of 70 bits": (
        line(b'{"text": "x", "n": 999999999999999999999}'),
        "more than 64 bits",
    ),
    "JSON nested 100,000 deep": (line(b"[" * 100_000), "nested too deep|broken JSON"),
    "JSON that is no UTF-8": (line(b'{"text": "\xe4", "n": 5}'), "not UTF-8 .byte 0xe4 at 10 of"),
    "a line of 10 MB": (
        line(b'{"text": "' + b"x" * 10**7 + b'", "n": 5}'),
        "longer than .*max_bytes: 8388608",
    ),
    "a row of CSV with too few cells": (cells("bad"), "1 cells instead of 2"),
    "a row of CSV with too many cells": (cells("bad,1,2"), "3 cells instead of 2"),
    "a row of CSV with an open quote": (cells('"bad,1'), "broken CSV"),
    "a cell of CSV that is no number": (cells("bad,many"), "n: 'many' where"),
    "a line of text that is no UTF-8": (plain_text("line", b"\xff\xfe"), "not UTF-8"),
    "a paragraph that is no UTF-8": (plain_text("paragraph", b"x\n\xff"), "not UTF-8"),
    "a text file that is no UTF-8": (plain_text("file", b"caf\xe9"), "not UTF-8 .byte 0xe9 at 3 of 4"),
    "text of Parquet that is no UTF-8": (text_of_parquet, "text: not UTF-8"),
    "a label that is too large": (
        column("label", [0, 1, 7, 1, 0], labels=["a", "b"]),
        "label 7 is none of the",
    ),
    "a label below zero": (column("label", [0, 1, -1, 1, 0]), "label -1 is none"),
    "a label of another name": (
        column("label", ["a", "b", "c", "b", "a"], labels=["a", "b"]),
        "label 'c' is none",
    ),
    "a label between two": (column("label", [0.0, 1.0, 0.5, 1.0, 0.0]), "label 0.5 is no class number"),
    "a label that is null": (column("label", [0, 1, None, 1, 0]), "no value in label"),
    "a label that is NaN": (column("label", [0.0, 1.0, np.nan, 1.0, 0.0]), "no label"),
    "a null among whole numbers": (column("n", [1, 2, None, 3, 4]), "no value in n"),
    "a tensor with NaN": (
        column("tensor", [[1.0, 2], [3, 4], [np.nan, 1], [5, 6], [7, 8]], pa.list_(pa.float32(), 2)),
        "1 values that are NaN",
    ),
    "a ragged tensor with infinity": (
        column("tensor", [[1.0], [3, 4], [np.inf], [5, 6], [7]]),
        "NaN or infinite",
    ),
    "a sample without a member": (sample(("bad.cls", b"1")), "bad: no member for text"),
    "a sample whose name leads outside": (
        sample(("../bad.txt", b"x"), ("../bad.cls", b"1")),
        "leads outside",
    ),
    "a sample with a text that is no UTF-8": (sample(("bad.txt", b"\xff"), ("bad.cls", b"1")), "not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_set_aside_with_its_reason_and_the_rest_is_written(case: str, tmp_path: Path) -> None:
    make, reason = BAD_ROWS[case]
    (tmp_path / "in").mkdir()
    source = make(tmp_path / "in")
    keys = source.pop("spec", {})
    what = spec(source=source, unit_rows=2, max_rejected=0.5, compute=LOCAL, **keys)
    result = build(what, tmp_path / "out")
    assert (result.rows, result.rejected) == (GOOD, 1)
    (file,) = (tmp_path / "out" / "rejected").glob("*.parquet")
    (bad,) = pq.read_table(file).to_pylist()
    assert re.search(reason, bad["reason"]), bad["reason"]
    assert "\n" not in bad["reason"]
    # Where to look: the file, or the file and the place in it.
    there = {
        os.fsencode(path.name).decode("utf-8", "backslashreplace") for path in (tmp_path / "in").iterdir()
    }
    assert re.split("[#@]", bad["row_id"])[0] in there
    written = open_dataset(tmp_path / "out").read()
    assert len(set(written["row_id"])) == GOOD
    assert bad["row_id"] not in set(written["row_id"])


@pytest.mark.parametrize("case", ["a JPEG of no bytes", "broken JSON", "a label below zero"])
def test_more_bad_rows_than_the_spec_allows_stop_the_build(case: str, tmp_path: Path) -> None:
    make, reason = BAD_ROWS[case]
    (tmp_path / "in").mkdir()
    what = spec(
        source={k: v for k, v in make(tmp_path / "in").items() if k != "spec"},
        max_rejected=0.1,
        compute=LOCAL,
    )
    with pytest.raises(
        DataError, match=rf"1 of 5 rows rejected, more than `max_rejected: 0.1` allows; .*{reason}"
    ):
        build(what, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def intact() -> Iterator[Any]:
    """Unusual, and good."""
    deep = (np.arange(24 * 24, dtype=np.uint16) * 100).reshape(24, 24)
    frames = [Image.fromarray(noise(i)) for i in range(3)]
    pictures = {
        "16 bits": (encoded(deep), (24, 24, 1)),
        "CMYK": (encoded(frames[0].convert("CMYK"), "JPEG"), (24, 24, 3)),
        "an animation": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), (24, 24, 3)),
        "a palette with a transparent colour": (
            encoded(frames[0].convert("P"), "PNG", transparency=b"\x01"),
            (24, 24, 3),
        ),
        "an alpha channel": (encoded(frames[0].convert("RGBA"), "WEBP"), (24, 24, 3)),
        "one bit": (encoded(frames[0].convert("1")), (24, 24, 1)),
    }
    for name, (content, shape) in pictures.items():
        yield pytest.param(picture(content, "zz.png"), "image", shape, id=name)
    yield pytest.param(plain_text("file", "\ufeffä\r\n".encode()), "text", None, id="a byte order mark")
    yield pytest.param(
        line(b'{"n": 5, "text": "\\u0000", "label": 1, "more": {}}'), "text", None, id="a NUL, another key"
    )
    yield pytest.param(column("tensor", [[1.0], [2, 3], [], [4], [5]]), "tensor", None, id="ragged tensors")
    yield pytest.param(column("text", ["a", None, "c", "d", "e"]), "text", None, id="a text that is null")
    yield pytest.param(cells("\u2028,9"), "text", None, id="a line separator of Unicode")


@pytest.mark.parametrize(("make", "name", "shape"), list(intact()))
def test_what_is_unusual_and_good_is_written(
    make: Make, name: str, shape: tuple[int, ...] | None, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    source = {key: value for key, value in make(tmp_path / "in").items() if key != "spec"}
    result = build(spec(source=source, unit_rows=2, max_rejected=0, compute=LOCAL), tmp_path / "out")
    assert (result.rows, result.rejected) == (GOOD + 1, 0)
    written = open_dataset(tmp_path / "out").read()[name]
    assert shape is None or written[-1].shape == shape


def file(name: str, content: bytes, source: str, **keys: Any) -> Make:
    def make(folder: Path) -> dict[str, Any]:
        (folder / name).write_bytes(content)
        return {"source": {"name": source, "path": str(folder), **keys.pop("options", {})}, **keys}

    return make


def parquet(**columns: Any) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content, compression="none")
    return content.getvalue()


def damaged_page(folder: Path) -> dict[str, Any]:
    content = bytearray(parquet(text=[f"{'x' * 50}{i}" for i in range(5000)]))
    content[100:90_000] = b"?" * 89_900
    (folder / "a.parquet").write_bytes(content)
    return {"source": {"name": "parquet", "path": str(folder)}}


def two_schemas(folder: Path) -> dict[str, Any]:
    (folder / "a.parquet").write_bytes(parquet(n=[1, 2]))
    (folder / "b.parquet").write_bytes(parquet(n=["one", "two"]))
    return {"source": {"name": "parquet", "path": str(folder)}}


def table_badly_named(folder: Path) -> dict[str, Any]:
    (folder / os.fsdecode(b"caf\xe9.parquet")).write_bytes(TABLE)
    return {"source": {"name": "parquet", "path": str(folder)}}


def tar_cut_short() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for i in range(9):
            info = tarfile.TarInfo(f"{i}.txt")
            info.size = 400
            archive.addfile(info, io.BytesIO(b"x" * 400))
    return content.getvalue()[: 5 * 1024 + 700]


def at(path: str, source: str = "parquet", **keys: Any) -> Make:
    return lambda folder: {"source": {"name": source, "path": path.replace("HERE", str(folder))}, **keys}


TABLE = parquet(text=["a", "b", "c"], n=[1, 2, 3])
LINES = gzip.compress("".join(f'{{"n": {i * 7919 % 1000}}}\n' for i in range(5000)).encode())
BAD_INPUTS: dict[str, tuple[Make, str]] = {
    "Parquet cut short": (file("a.parquet", TABLE[:-20], "parquet"), "a.parquet: not readable as Parquet"),
    "Parquet with garbage for a footer": (
        file("a.parquet", TABLE[:-40] + b"?" * 32 + TABLE[-8:], "parquet"),
        "not readable as Parquet",
    ),
    "Parquet with a damaged page": (damaged_page, "a.parquet: damaged|not readable"),
    "Parquet of no bytes": (file("a.parquet", b"", "parquet"), "not readable as Parquet"),
    "Parquet of no rows": (
        file("a.parquet", parquet(n=pa.array([], pa.int64())), "parquet"),
        "holds no rows",
    ),
    "a column of mixed types": (
        two_schemas,
        "b.parquet: its column 'n' is string, the first file's is int64",
    ),
    "a file whose name is no UTF-8": (table_badly_named, r"caf\\xe9.parquet: its name is no UTF-8"),
    "a text called .parquet": (file("a.parquet", b"only text", "parquet"), "not readable as Parquet"),
    "JSONL of no bytes": (file("a.jsonl", b"", "jsonl"), "holds nothing"),
    "JSONL that is none": (
        file("a.jsonl", b"text\ntext\n", "jsonl"),
        "no line of the beginning is a JSON object",
    ),
    "gzip cut short": (file("a.jsonl.gz", LINES[:-100], "jsonl"), "a.jsonl.gz: damaged after"),
    "zstd that is none": (file("a.jsonl.zst", b"no zstd", "jsonl"), "a.jsonl.zst: damaged after 0 bytes"),
    "CSV of no bytes": (file("a.csv", b"", "csv"), "holds nothing|is empty"),
    "CSV with one name twice": (file("a.csv", b"n,n\n1,2\n", "csv"), "has two columns 'n'"),
    "a tar cut short": (file("a.tar", tar_cut_short(), "webdataset"), "a.tar: (damaged|not a readable tar)"),
    "a text called .tar": (file("a.tar", b"only text " * 99, "webdataset"), "not a readable tar"),
    "a folder without files": (at("HERE", "images"), "no files ending in"),
    "a folder for a file": (at("HERE/"), "no files ending in .parquet"),
    "a file for a folder": (file("notes.txt", b"text", "images", options={}), "no files ending in"),
    "a path to nowhere": (at("HERE/gone.parquet"), "gone.parquet: no such file or folder"),
    "a path through a file": (at("/dev/null/x.parquet"), "no such file or folder|cannot be read"),
    "a variable that is not set": (at("$SURELY_NOT_SET/x"), "variable SURELY_NOT_SET is not set"),
    "a pattern that nothing matches": (at("HERE/*.parquet"), "no files ending in .parquet, .pq there"),
    "a scheme that nobody knows": (at("nosuch://bucket/x"), "nosuch://bucket: cannot be opened"),
    "a column that is not there": (
        file("a.parquet", TABLE, "parquet", columns={"image": "photo"}),
        "no column 'photo'",
    ),
    "a column to keep that is not there": (
        file("a.parquet", TABLE, "parquet", keep=["photo"]),
        "no column 'photo'",
    ),
    "labels in words and no list": (
        file("a.parquet", TABLE, "parquet", columns={"label": "text"}),
        "list the class names",
    ),
    "classes that no row has": (
        file("a.parquet", TABLE, "parquet", columns={"label": "n"}, classes=[9]),
        "no rows in classes",
    ),
    "text for an encoder of images": (file("a.parquet", TABLE, "parquet", encoder=ENCODER), "'image'"),
    "an option that the source lacks": (
        at("HERE", "csv", transforms=[{"name": "resize", "sice": 3}]),
        "has no option 'sice'",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_a_bad_input_is_one_line_and_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SURELY_NOT_SET", raising=False)
    make, message = BAD_INPUTS[case]
    (tmp_path / "in").mkdir()

    def run() -> None:
        build(spec(**make(tmp_path / "in"), compute=LOCAL), tmp_path / "out")

    with pytest.raises((DataError, SpecError), match=message) as caught:
        run()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").rglob("*"))


def test_a_file_given_for_a_folder_of_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(DataError, match=r"notes.txt: is a file that ends in none of .png"):
        build(spec(source={"name": "images", "path": str(tmp_path / "notes.txt")}), tmp_path / "out")


def test_a_column_may_be_mapped_onto_itself(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(TABLE)
    source = {"name": "parquet", "path": str(tmp_path / "a.parquet")}
    what = spec(source=source, columns={"text": "text", "label": "n"}, compute=LOCAL)
    build(what, tmp_path / "out")
    written = open_dataset(tmp_path / "out").read()
    assert written["text"].tolist() == ["a", "b", "c"]
    assert written["label"].tolist() == [1, 2, 3]


PROGRAM = """
import json, os, resource, signal, sys
said = json.loads(sys.argv[1])
from ray_app.data.build import build
from ray_app.errors import RayAppError
from ray_app.spec import parse
from ray_app.spec.dataset import DatasetSpec
content = {"name": "rows", "source": said["source"], "compute": {"executor": "local"}}
what = parse(content, DatasetSpec, "test")
if said.get("user"):
    os.setgid(said["user"])
    os.setuid(said["user"])
if said.get("limit"):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (said["limit"], said["limit"]))
try:
    build(what, said["out"])
except RayAppError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own is closed to others."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def run_apart(**said: Any) -> str:
    """What a build in a process of its own leaves with."""
    if os.geteuid() == 0 and said.get("user"):
        said["user"] = 65534
    elif said.get("user"):
        del said["user"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(said)], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    return done.stderr.strip()


def test_what_may_not_be_read_is_one_line(shared_folder: Path) -> None:
    (shared_folder / "in").mkdir()
    (shared_folder / "in" / "a.parquet").write_bytes(TABLE)
    (shared_folder / "in" / "a.parquet").chmod(0)
    source = {"name": "parquet", "path": str(shared_folder / "in")}
    said = run_apart(source=source, out=str(shared_folder / "out"), user=True)
    assert re.fullmatch(r"DataError: .*a.parquet: .*([Pp]ermission denied).*", said), said
    assert not (shared_folder / "out").exists()
    (shared_folder / "in").chmod(0)
    said = run_apart(source=source, out=str(shared_folder / "out"), user=True)
    assert re.fullmatch(r"DataError: .*in: cannot be read .Permission denied.*", said), said
    (shared_folder / "in").chmod(0o700)


def test_a_place_that_may_not_be_written_to_is_one_line(shared_folder: Path) -> None:
    (shared_folder / "a.parquet").write_bytes(TABLE)
    (shared_folder / "a.parquet").chmod(0o644)
    (shared_folder / "closed").mkdir(mode=0o555)
    source = {"name": "parquet", "path": str(shared_folder / "a.parquet")}
    said = run_apart(source=source, out=str(shared_folder / "closed" / "out"), user=True)
    assert re.fullmatch(r"DataError: .*out.*cannot be (written|made|read) .*", said), said
    assert list((shared_folder / "closed").iterdir()) == []


def test_a_file_where_the_output_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(TABLE)
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="out"):
        build(
            spec(source={"name": "parquet", "path": str(tmp_path / "a.parquet")}, compute=LOCAL),
            tmp_path / "out",
        )
    assert (tmp_path / "out").read_text() == "mine"


def test_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path: Path) -> None:
    # A limit on a file's size fails as a full disk does: in the middle of writing.
    noise = np.random.default_rng(0).bytes(400_000)
    (tmp_path / "a.parquet").write_bytes(parquet(blob=[noise]))
    source = {"name": "parquet", "path": str(tmp_path / "a.parquet")}
    said = run_apart(source=source, out=str(tmp_path / "out"), limit=100_000)
    assert re.fullmatch(r"DataError: .*cannot be written .File too large.; make room.*", said), said
    assert not list((tmp_path / "out").rglob("part-*"))
