"""What every source promises, over all of them."""

import bz2
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from ray_app import registry
from ray_app.data.sources import Source
from ray_app.methods.generators import Generator as Endless
from tests.data.rows import images, table


class Noise(Endless):
    """Rows of noise."""

    def row(self, rng: np.random.Generator) -> dict[str, np.ndarray | int | float | str]:
        return {"tensor": rng.standard_normal(3).astype(np.float32), "label": int(rng.integers(2))}


TEXTS = [f"{'long ' * (i % 7 * 9)}row {i}{chr(228 + i)}" for i in range(29)]


def jsonl() -> bytes:
    lines = [json.dumps({"text": text, "label": i % 3, "x": i / 8}) for i, text in enumerate(TEXTS)]
    return "\n".join([*lines[:7], "", "{broken", *lines[7:], '"text"']).encode()


def write(path: Path, content: bytes) -> Path:
    """Pack by suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".gz", ".bz2"):
        content = {".gz": gzip, ".bz2": bz2}[path.suffix].compress(content)  # type: ignore[attr-defined]
    if path.suffix == ".zst":
        content = pa.compress(content, "zstd", asbytes=True)
    path.write_bytes(content)
    return path


def lined(folder: Path, kind: str) -> Source:
    """A source of lines or paragraphs, over two files."""
    name, _, variant = kind.partition("-")
    options: dict[str, Any] = {"path": str(folder)}
    if name == "jsonl":
        suffix = f"jsonl.{variant}" if variant else "jsonl"
        write(folder / "a" / f"x.{suffix}", jsonl())
        write(folder / f"b.{suffix}", jsonl() + b"\r\n")
    elif name == "csv":
        rows = [f'"{text}",{i},{i / 4}' for i, text in enumerate(TEXTS)]
        if variant == "multiline":
            options["multiline"] = True
            rows = [row.replace("long ", 'long\n""', 3) for row in rows]
        for file in ("a.csv", "b.csv"):
            write(folder / file, "\r\n".join(["text,label,x", *rows[:20], "too,few", *rows[20:]]).encode())
    else:
        options["by"] = variant
        glue = "\n\n" if variant == "paragraph" else "\n"
        parts = [text.replace("long ", "long\n", 2) if variant == "paragraph" else text for text in TEXTS]
        write(folder / "a.txt", f"\n{glue.join(parts)}{glue}\n".encode())
        write(folder / "b.txt", glue.join(parts).encode() + b"\xff")
    return registry.build("sources", name, options)


LINED = [
    *["jsonl", "jsonl-gz", "jsonl-zst", "jsonl-bz2", "csv", "csv-multiline"],
    *["text-line", "text-paragraph"],
]
TARS = ["webdataset-tar", "webdataset-tar.gz", "webdataset-tgz"]


def tars(folder: Path, suffix: str) -> Source:
    """A source of two archives."""
    folder.mkdir()
    for name in ("a", "b"):
        with tarfile.open(folder / f"{name}.{suffix}", "w" if suffix == "tar" else "w:gz") as archive:
            for i, text in enumerate(TEXTS):
                members = {"txt": text.encode(), "cls": str(i % 3).encode(), "json": b'{"x": %d}' % i}
                for extension, content in {**members, "meta": b"unknown"}.items():
                    if (i, extension) != (4, "cls"):
                        member = tarfile.TarInfo(f"{name}/{i:03d}.{extension}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
    return registry.build("sources", "webdataset", {"path": str(folder)})


@pytest.fixture(
    params=[
        *["digits", "photo_patches", "wine", "parquet", "images", "generator", "audio", "text", "docstrings"],
        *LINED,
        *TARS,
    ]
)
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    if request.param in LINED:
        return lined(tmp_path / "lines", request.param)
    if request.param in TARS:
        return tars(tmp_path / "tars", request.param.partition("-")[2])
    if request.param == "audio":
        for i in range(9):
            path = tmp_path / "audio" / "ab"[i % 2] / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.full(50 + i, i / 16), 8000)
        return registry.build("sources", "audio", {"path": str(tmp_path / "audio"), "sample_rate": 4000})
    if request.param == "text":
        for i, text in enumerate(TEXTS):
            write(tmp_path / "text" / f"{i}.txt", text.encode("latin-1" if i == 3 else "utf-8"))
        return registry.build("sources", "text", {"path": str(tmp_path / "text")})
    if request.param == "docstrings":
        return registry.build("sources", "docstrings", {"packages": ["json", "wave"], "min_chars": 1})
    if request.param == "parquet":
        table(tmp_path / "x" / "a.parquet", 11)
        table(tmp_path / "x" / "deep" / "b.parquet", 7, group=100)
        return registry.build("sources", "parquet", {"path": str(tmp_path / "x")})
    if request.param == "images":
        return registry.build("sources", "images", {"path": str(images(tmp_path, 9))})
    if request.param == "generator":
        load = registry.load
        monkeypatch.setattr(
            registry, "load", lambda f, n: Noise if (f, n) == ("generators", "noise") else load(f, n)
        )
        return registry.build("sources", "generator", {"generator": "noise", "rows": 23, "seed": 4})
    return registry.build("sources", "sklearn", {"dataset": request.param})


def rows(source: Source, size: int) -> list[tuple[Any, ...]]:
    """Every row as plain values, read in units of a size."""
    out: list[tuple[Any, ...]] = []
    for unit in source.units(size):
        read = source.read(unit)
        if unit.rows is None:
            assert len(read.batch["row_id"]) + len(read.rejected) == len(unit)
        columns = [[plain(value) for value in column] for column in read.batch.values()]
        out += zip(*columns, strict=True)
        out += [(bad.row_id, bad.reason) for bad in read.rejected]
    return sorted(out, key=lambda row: str(row[0]))


def plain(value: Any) -> Any:
    return (str(value.dtype), value.tobytes()) if isinstance(value, np.ndarray | np.generic) else value


@pytest.mark.parametrize("size", [1, 2, 5])
def test_rows_are_the_same_for_every_size_of_unit(source: Source, size: int) -> None:
    whole = rows(source, 10_000)
    assert rows(source, size) == whole
    ids = [source.read(unit).batch["row_id"].tolist() for unit in source.units(10_000)]
    flat = [row for part in ids for row in part]
    assert len(set(flat)) == len(flat)
    assert all(isinstance(row, str) for row in flat)


def test_units_are_unique_and_deterministic_and_fit_for_file_names(source: Source) -> None:
    units = source.units(4)
    assert len({unit.id for unit in units}) == len(units)
    assert source.units(4) == units
    assert all(0 < len(unit) <= 4 for unit in units)
    assert len(units) > 1
    assert all("/" not in unit.id and len(unit.id) < 128 for unit in units)


def test_columns_are_known_before_anything_is_read(source: Source) -> None:
    read = source.read(source.units(4)[0])
    assert set(read.batch) == {"row_id", *source.columns}


def test_streaming_any_units_in_any_order_equals_reading_them_alone(source: Source) -> None:
    units = source.units(3)
    chosen = [*units[2:6], *units[:2], *units[3:4], *units[7:8]]
    for (unit, streamed), expected in zip(source.stream(chosen), chosen, strict=True):
        assert unit == expected
        alone = source.read(unit)
        assert streamed.batch.keys() == alone.batch.keys()
        for name in alone.batch:
            np.testing.assert_array_equal(streamed.batch[name], alone.batch[name])


def test_fingerprints_are_stable(source: Source) -> None:
    assert source.fingerprint() == source.fingerprint()
    assert len(source.fingerprint()) >= 16
