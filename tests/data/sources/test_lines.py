"""Rows of text files against the standard library's own parsers, and what they refuse."""

import copy
import csv
import gzip
import io
import itertools
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_app import registry
from ray_app.data.arrow import concat
from ray_app.data.sources import Read, Source, _lines, _records
from ray_app.data.sources._records import lines, paragraphs, quoted
from ray_app.errors import DataError, SpecError
from ray_app.storage import Place


def open_source(name: str, path: Path | str, **options: Any) -> Source:
    return registry.build("sources", name, {"path": str(path), **options})


def whole(source: Source, size: int = 1000) -> Read:
    reads = [read for _, read in source.stream(source.units(size))]
    return Read(concat([read.batch for read in reads]), [bad for read in reads for bad in read.rejected])


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(st.sampled_from([b"a", b"bc", b"", b"\r", b"\n", b"\n\n", b'"', b" "])), st.integers(1, 9))
def test_records_are_those_of_a_plain_split(parts: list[bytes], block: int) -> None:
    content = b"".join(parts)
    blocks = [content[i : i + block] for i in range(0, len(content), block)]
    found = list(lines(blocks, 100, 2**20))
    expected = content.split(b"\n")
    expected = expected if expected[-1] else expected[:-1]
    assert [line for _, line in found] == [line.removesuffix(b"\r") for line in expected]
    assert [content[at - 100 :].split(b"\n")[0] for at, _ in found] == expected
    joined = [text for _, text in paragraphs(2**20)(iter(found))]
    blank = re.compile(rb"(?:^|\n)(?:[ \r]*\n)+")
    plain = b"\n".join(line.removesuffix(b"\r") for line in expected)
    assert joined == [part.rstrip(b"\n") for part in blank.split(plain) if part.strip()]
    quotes = [text for _, text in quoted(b'"', 2**20)(iter(found))]
    assert b"\n".join(text for text in quotes if text is not None) == plain
    assert all(text is not None and text.count(b'"') % 2 == 0 for text in quotes[:-1])


@settings(
    derandomize=True,
    deadline=None,
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.sampled_from(["a", "bc\n", "\n", "\r\n", "\n\n", "long " * 9, "\u00e4", " "]), max_size=40),
    st.sampled_from(["line", "paragraph"]),
    st.sampled_from(["", ".gz"]),
    st.integers(1, 4),
)
def test_however_a_text_is_cut_its_rows_are_the_same(
    tmp_path: Path, parts: list[str], by: str, packed: str, size: int
) -> None:
    content = "".join(["first\n", *parts]).encode()
    path = write(tmp_path / f"a.txt{packed}", gzip.compress(content) if packed else content)
    once = whole(open_source("text", path, by=by), 10_000).batch
    cut = whole(open_source("text", path, by=by), size).batch
    assert cut["row_id"].tolist() == once["row_id"].tolist()
    assert cut["text"].tolist() == once["text"].tolist()
    plain = [line for line in content.decode().replace("\r\n", "\n").split("\n") if line.strip()]
    assert "\n".join(once["text"]).split("\n") == plain


def test_what_is_too_long_is_skipped_without_being_held() -> None:
    fresh = (bytes([120 + i % 2]) * 1000 for i in range(5000))
    stream = itertools.chain(fresh, [b"\nshort\n"], [b"y" * 1001, b"\n\nend"])
    tracemalloc.start()
    found = list(lines(stream, 0, 1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [
        (0, None),
        (5_000_001, b"short"),
        (5_000_007, None),
        (5_001_009, b""),
        (5_001_010, b"end"),
    ]
    assert peak < 100_000
    long = [(0, b"a" * 6), (7, b"b" * 6), (14, b""), (15, b"c")]
    assert list(paragraphs(10)(iter(long))) == [(0, None), (15, b"c")]
    assert list(quoted(b'"', 10)(iter([(0, b'"aaaaaa'), (8, b"bbbbbb"), (15, b'"'), (17, b"c")]))) == [
        (0, None),
        (17, b"c"),
    ]


def test_jsonl_equals_the_standard_library(tmp_path: Path) -> None:
    rows = [
        {
            "text": f"Zeile {i} \u00e4\u2028 \U0001f600",
            "label": i,
            "x": i / 7,
            "ok": i % 2 == 0,
            "v": [i, 2],
            "deep": {"b": [{"a": i}]},
        }
        for i in range(50)
    ]
    path = write(
        tmp_path / "a.jsonl",
        "\r\n".join(json.dumps(row, ensure_ascii=i % 2 > 0) for i, row in enumerate(rows)),
    )
    for size in (3, 1000):
        batch = whole(open_source("jsonl", path), size).batch
        for name in ("text", "label", "x", "ok"):
            assert batch[name].tolist() == [row[name] for row in rows]
        assert [value.tolist() for value in batch["v"]] == [row["v"] for row in rows]
        assert [json.loads(value) for value in batch["deep"]] == [row["deep"] for row in rows]
        assert [batch[name].dtype.kind for name in ("label", "x", "ok", "text")] == ["i", "f", "b", "O"]
        content = path.read_bytes()
        for row_id, row in zip(batch["row_id"], rows, strict=True):
            name, _, at = row_id.partition("@")
            assert name == "a.jsonl"
            assert json.loads(content[int(at) :].splitlines()[0]) == row


@pytest.mark.parametrize("multiline", [False, True])
def test_csv_equals_the_standard_library(tmp_path: Path, *, multiline: bool) -> None:
    rng = np.random.default_rng(0)
    pieces = [
        "plain",
        "with, comma",
        'with "quotes"',
        "\u00e4\u2028",
        "",
        *(["two\nlines", "\r\n\n"] if multiline else []),
    ]
    rows = [[str(rng.choice(pieces)), str(i), str(i / 3), f"0{i}"] for i in range(60)]
    out = io.StringIO()
    csv.writer(out).writerows([["text", "n", "x", "code"], *rows])
    path = write(tmp_path / "a.csv", "\ufeff" + out.getvalue())
    for size in (1, 4, 1000):
        batch = whole(open_source("csv", path, multiline=multiline), size).batch
        assert batch["text"].tolist() == [row[0].replace("\r\n", "\n") for row in rows]
        assert batch["n"].tolist() == list(range(60))
        assert batch["n"].dtype == np.int64
        assert batch["x"].tolist() == [i / 3 for i in range(60)]
        assert batch["code"].tolist() == [row[3] for row in rows]


def test_paragraphs_and_lines_of_text(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "\ufeff\none\ntwo\n\n \nthree\r\n\r\nfour")
    assert whole(open_source("text", tmp_path, by="paragraph"), 1).batch["text"].tolist() == [
        "one\ntwo",
        "three",
        "four",
    ]
    by_line = whole(open_source("text", tmp_path, by="line"), 1).batch
    assert by_line["text"].tolist() == ["one", "two", "three", "four"]
    assert by_line["row_id"].tolist() == ["a.txt@4", "a.txt@8", "a.txt@15", "a.txt@24"]
    (tmp_path / "good").mkdir()
    write(tmp_path / "good" / "b.md", "whole\n\nfile")
    labelled = open_source("text", tmp_path, by="file")
    assert labelled.labels == ["good"]
    assert whole(labelled).batch["text"].tolist() == ["whole\n\nfile"]
    assert whole(open_source("text", tmp_path / "good")).batch["row_id"].tolist() == ["b.md"]


BAD_LINES = [
    ('{"text": "x", "n": 1', "broken JSON .Expecting ',' delimiter at character 20"),
    ('["text", 1]', "JSON that is no object but list"),
    ("null", "no object but NoneType"),
    ('{"text": 5, "n": 1}', "text: 5 where the column holds text; say `types: {text"),
    ('{"text": "x", "n": "1"}', "n: '1' where the column holds whole numbers"),
    ('{"text": "x", "n": 1.5}', "n: 1.5 where the column holds whole numbers"),
    ('{"text": "x", "n": true}', "n: True where the column holds whole numbers"),
    ('{"text": "x", "n": NaN}', "n: nan where"),
    ('{"text": "x", "n": null}', "no value in n"),
    ('{"text": "x"}', "no value in n"),
    ('{"text": "x", "n": 99999999999999999999}', "needs more than 64 bits"),
    ('{"text": "x", "n": ' + "9" * 5000 + "}", "digits"),
    ('{"text": "\\ud800", "n": 1}', "half a surrogate pair at 0"),
    (b'{"text": "\xff\xfe", "n": 1}', "not UTF-8 .byte 0xff at 10"),
    ('{"text": ' + "[" * 100_000 + ', "n": 1}', "nested too deep|broken JSON"),
    ('{"text": "' + "x" * 300_000 + '", "n": 1}', "longer than the source's `max_bytes: 200000`"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=[reason[:20] for _, reason in BAD_LINES])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_bad_line_costs_one_row_and_says_where_it_is(
    tmp_path: Path, line: str | bytes, reason: str, packed: str
) -> None:
    good = [json.dumps({"text": f"row {i}", "n": i}).encode() for i in range(20)]
    content = b"\n".join([*good[:9], line if isinstance(line, bytes) else line.encode(), *good[9:]])
    path = write(tmp_path / f"a.jsonl{packed}", gzip.compress(content) if packed else content)
    types = {"text": "text", "n": "int"}
    read = whole(open_source("jsonl", path, max_bytes=200_000, types=types), 4)
    assert read.batch["n"].tolist() == list(range(20))
    (bad,) = read.rejected
    assert bad.row_id == f"{path.name}@{len(b'-'.join(good[:9])) + 1}"
    assert re.search(reason, bad.reason), bad.reason
    assert "\n" not in bad.reason
    assert len(bad.reason) < 200


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("only one", "1 cells instead of 2"),
        ("a,1,more", "3 cells instead of 2"),
        ("a,", "no value in n"),
        ("a,one", "n: 'one' where the column holds whole numbers"),
        ("a,1_000", "n: '1_000' where"),
        ("a,99999999999999999999", "more than 64 bits"),
        ('"open,1', "broken CSV .unexpected end of data.; if its cell goes on"),
        ('"a"b,1', "broken CSV"),
        ("a\rb,1", "broken CSV"),
    ],
)
def test_a_bad_row_of_csv_costs_one_row(tmp_path: Path, row: str, reason: str) -> None:
    path = write(tmp_path / "a.csv", "\n".join(["text,n", *["good,1"] * 9, row, *["good,2"] * 9]))
    read = whole(open_source("csv", path, types={"n": "int"}), 3)
    assert read.batch["n"].tolist() == [1] * 9 + [2] * 9
    (bad,) = read.rejected
    assert bad.row_id == f"a.csv@{7 + 7 * 9}"
    assert re.search(reason, bad.reason), bad.reason


def test_types_are_what_the_first_rows_have_unless_they_are_said(tmp_path: Path) -> None:
    lines = [
        '{"a": 1, "b": null, "c": "x", "d": 1}',
        '{"a": 2.5, "b": 3, "c": 4, "d": [1]}',
        '{"a": 3, "b": 4, "c": "y"}',
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    source = open_source("jsonl", path)
    read = whole(source)
    assert read.batch["a"].tolist() == [1]
    assert np.isnan(read.batch["b"]).tolist() == [True]
    assert len(read.rejected) == 2
    said = whole(open_source("jsonl", path, columns=["c", "d"], types={"c": "json", "d": "json"})).batch
    assert list(said) == ["row_id", "c", "d"]
    assert said["c"].tolist() == ['"x"', "4", '"y"']
    assert said["d"].tolist() == ["1", "[1]", None]
    table = write(tmp_path / "b.csv", "n,m\n1,\n2,5\n")
    assert np.isnan(whole(open_source("csv", table)).batch["m"]).tolist() == [True, False]
    text = whole(open_source("csv", table, types={"n": "text", "m": "text"}, columns=["m", "n"])).batch
    assert (text["n"].tolist(), text["m"].tolist()) == (["1", "2"], ["", "5"])
    bare = whole(open_source("csv", table, header=["x", "y"], types={"x": "text", "y": "text"})).batch
    assert bare["x"].tolist() == ["n", "1", "2"]
    tabs = write(tmp_path / "c.tsv", "a,b\tc\n1\t2\n")
    assert list(whole(open_source("csv", tabs)).batch) == ["row_id", "a,b", "c"]


def test_a_unit_in_the_middle_reads_no_more_than_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_records, "BLOCK", 1000)
    path = write(
        tmp_path / "a.jsonl", "".join(f'{{"n": {i:09d}}}\n'.replace(": 0", ": 1") for i in range(10_000))
    )
    source = open_source("jsonl", path)
    units = source.units(100)
    size = path.stat().st_size
    opened = Place.open
    read: list[int] = []

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
    batch = source.read(units[60]).batch
    assert 0.9 < len(batch["n"]) / 100 < 1.1
    assert sum(read) < size / 50
    read.clear()
    total = sum(len(part.batch["n"]) for _, part in source.stream(units))
    assert total == 10_000
    assert sum(read) < size * 1.1 + 2000


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_a_packed_file_is_unpacked_once_for_all_of_its_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rows = [f'{{"n": {i + 1000}}}' if name == "jsonl" else f"{i + 1000}" for i in range(500)]
    head = [] if name == "jsonl" else ["n"]
    path = write(tmp_path / f"a.{name}.gz", gzip.compress("\n".join([*head, *rows]).encode()))
    source = open_source(name, path)
    units = source.units(20)
    assert len(units) > 15
    assert source.columns == ["n"]
    streamed = Place.stream
    opened: list[Place] = []
    monkeypatch.setattr(Place, "stream", lambda place: opened.append(place) or streamed(place))
    chosen = [*units[3:9], *units[12:14]]
    found = [n for _, read in source.stream(chosen) for n in read.batch["n"].tolist()]
    assert len(opened) == 1
    assert found == [n for unit in chosen for n in source.read(unit).batch["n"].tolist()]


def test_only_a_packed_files_units_want_to_be_read_in_order_and_a_source_travels_small(
    tmp_path: Path,
) -> None:
    lines = "".join(f'{{"n": {i}, "text": "{"x" * 1000}"}}\n' for i in range(300)).encode()
    write(tmp_path / "a.jsonl", lines)
    write(tmp_path / "b.jsonl.gz", gzip.compress(lines))
    source = open_source("jsonl", tmp_path)
    units = source.units(100)
    assert [source.is_sequential(unit) for unit in units] == [unit.path == "b.jsonl.gz" for unit in units]
    assert source.columns == ["n", "text"]
    state = copy.copy(source)
    assert len(str(vars(state))) < 10_000
    assert [read.batch["n"].tolist() for _, read in state.stream(units)] == [
        read.batch["n"].tolist() for _, read in source.stream(units)
    ]


def test_several_members_of_gzip_are_one_file(tmp_path: Path) -> None:
    parts = [gzip.compress(f'{{"n": {i}}}\n'.encode()) for i in range(5)]
    assert whole(open_source("jsonl", write(tmp_path / "a.jsonl.gz", b"".join(parts)))).batch[
        "n"
    ].tolist() == [0, 1, 2, 3, 4]


def test_memory_is_bounded_by_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lines, "UNIT_BYTES", 20_000)
    lines = [json.dumps({"n": i, "text": "x" * (10 if i < 2000 else 2000)}) for i in range(4000)]
    source = open_source("jsonl", write(tmp_path / "a.jsonl", "\n".join(lines)), max_bytes=10_000)
    monkeypatch.setattr(_lines, "BLOCK", 10_000)
    sizes = [len(read.batch["n"]) for _, read in source.stream(source.units(1000))]
    assert sum(sizes) == 4000
    assert max(sizes[-100:]) <= 10


@pytest.mark.parametrize(
    ("name", "files", "options", "message"),
    [
        ("jsonl", {"a.jsonl": b""}, {}, "holds nothing"),
        ("jsonl", {"a.jsonl": b"text\nmore\n"}, {}, "no line of the beginning is a JSON object"),
        ("jsonl", {"a.jsonl": b'{"n": 1}'}, {"columns": ["m"]}, "no 'm' in its first lines .keys: n"),
        ("jsonl", {"a.jsonl": b'{"n": 1}'}, {"types": {"m": "int"}}, "no 'm' in its first lines"),
        ("jsonl", {"a.jsonl.gz": gzip.compress(b'{"n": 1}\n' * 9999)[:-20]}, {}, "a.jsonl.gz: damaged after"),
        ("jsonl", {"a.jsonl.zst": b"no zstd at all"}, {}, "a.jsonl.zst: damaged after"),
        ("jsonl", {"a.txt": b""}, {}, "no files ending in"),
        ("csv", {"a.csv": b""}, {}, "is empty; expected a header|holds nothing"),
        ("csv", {"a.csv": b"n,n\n1,2\n"}, {}, "has two columns 'n'; give other names with `header:`"),
        ("csv", {"a.csv": b"n,m\n1,2\n", "b.csv": b"m,n\n1,2\n"}, {}, "b.csv: its header is not that of"),
        ("csv", {"a.csv": b"\xff,m\n1,2\n"}, {}, "its header cannot be read .not UTF-8"),
        ("csv", {"a.csv": b"n,m\n1,2\n"}, {"columns": ["k"]}, "has no column 'k' .columns: n, m"),
        ("text", {"a.txt": b""}, {"by": "line"}, "holds nothing"),
    ],
)
def test_what_cannot_be_read_at_all_is_one_line(
    tmp_path: Path, name: str, files: dict[str, bytes], options: dict[str, Any], message: str
) -> None:
    for file, content in files.items():
        write(tmp_path / file, content)
    with pytest.raises(DataError, match=message) as caught:
        whole(open_source(name, tmp_path, **options))
    assert "\n" not in str(caught.value)


def test_a_file_that_changes_under_a_run_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"n": 1}\n{"n": 2}\n')
    source = open_source("jsonl", path)
    (unit,) = source.units(9)
    before = source.fingerprint()
    write(path, '{"n": 1}\n')
    with pytest.raises(DataError, match="changed since the run was planned; run it again"):
        source.read(unit)
    assert open_source("jsonl", path).fingerprint() != before
    path.unlink()
    with pytest.raises(DataError, match=r"cannot be read .No such file"):
        source.read(unit)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jsonl", {"path": ""}, "path must be a file"),
        ("jsonl", {"path": "x", "max_bytes": 0}, "max_bytes must be 1 to"),
        ("jsonl", {"path": "x", "columns": "text"}, "columns must be a list"),
        (
            "jsonl",
            {"path": "x", "types": {"a": "number"}},
            "types says a: 'number'; expected one of int, float",
        ),
        ("csv", {"path": "x", "types": {"a": "json"}}, "expected one of int, float, text"),
        ("csv", {"path": "x", "delimiter": ", "}, "delimiter must be one character"),
        ("csv", {"path": "x", "header": "a,b"}, "header must be a list"),
        ("text", {"path": "x", "by": "word"}, "by must be file, line or paragraph"),
        ("audio", {"path": "x", "sample_rate": 0}, "sample_rate must be a number of Hz"),
        ("audio", {"path": ""}, "audio: path must be a folder"),
    ],
)
def test_options_are_checked_before_anything_is_read(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        registry.build("sources", name, options)
