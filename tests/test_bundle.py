"""A bundle is whole or refused: every way in which one can be wrong costs one clear line."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_app import bundle as bundles
from ray_app.bundle import Bundle, Component, Contents, Manifest, Threshold, load, now, save
from ray_app.errors import BundleError
from ray_app.spec import Method

WEIGHTS = {"weight": torch.arange(6, dtype=torch.float32).reshape(2, 3), "count": torch.tensor([7])}


def manifest(**changes: Any) -> Manifest:
    member = Component(method=Method(name="timm", options={"model": "x"}), file="members/m.safetensors")
    return Manifest(
        **{"name": "b", "created": now(), "modality": "image", "labels": ["a", "b"], "members": {"m": member}}
        | changes
    )


def contents(**changes: Any) -> Contents:
    return Contents(**{"tensors": {"members/m.safetensors": WEIGHTS}} | changes)


@pytest.fixture
def good(tmp_path: Path) -> Bundle:
    everything = contents(
        tables={"prototypes": pa.table({"row": [1, 2]})}, assets={"m/tokenizer.json": b'{"version": 1}'}
    )
    return save(tmp_path / "b", manifest(), everything)


def rewrite(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> None:
    file = bundle.path / "bundle.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_everything_comes_back(good: Bundle) -> None:
    read = load(good.path)
    assert read.manifest == good.manifest
    assert read.version == good.version
    tensors = read.tensors("members/m.safetensors")
    assert {name: value.dtype for name, value in tensors.items()} == {
        name: value.dtype for name, value in WEIGHTS.items()
    }
    assert all(torch.equal(tensors[name], value) for name, value in WEIGHTS.items())
    assert read.table("prototypes").to_pydict() == {"row": [1, 2]}
    assert (read.path / "assets/m/tokenizer.json").read_bytes() == b'{"version": 1}'
    assert (
        read.manifest.versions["torch"] == torch.__version__.partition("+")[0]
        or read.manifest.versions["torch"]
    )
    assert set(read.manifest.files) == {
        "members/m.safetensors",
        "tables/prototypes.parquet",
        "assets/m/tokenizer.json",
    }


def test_tensors_that_share_memory_are_stored(tmp_path: Path) -> None:
    tied = torch.ones(4)
    stored = save(
        tmp_path / "b", manifest(), contents(tensors={"members/m.safetensors": {"a": tied, "b": tied[:2]}})
    )
    assert torch.equal(load(stored.path).tensors("members/m.safetensors")["b"], tied[:2])


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.floats(min_value=1e-3, max_value=10),
    st.sampled_from(["temperature", "labels", "tensor", "threshold", "none"]),
)
def test_version_tells_bundles_apart(value: float, what: str) -> None:
    part = bundles.CalibratedDetector(
        method=Method(name="d"),
        file="f",
        threshold=Threshold(value=1.0, tpr=0.95, rows=3, quantiles=[0, 1]),
    )
    one = manifest(detectors={"d": part}, files={"f": "00"})
    changes: dict[str, Any] = {
        "temperature": {"temperature": value},
        "labels": {"labels": ["a", str(value)]},
        "tensor": {"files": {"f": str(value)}},
        "threshold": {
            "detectors": {
                "d": part.model_copy(
                    update={"threshold": Threshold(value=value, tpr=0.95, rows=3, quantiles=[0, 1])}
                )
            }
        },
        "none": {"metrics": {"accuracy": value}, "created": now(), "versions": {"torch": "0"}},
    }[what]
    other = one.model_copy(update=changes)
    same = what == "none" or (value == 1.0 and what in ("temperature", "threshold"))
    assert (one.version == other.version) is same


@pytest.mark.parametrize("at", [0, 9, -1])
def test_a_flipped_byte_is_noticed(good: Bundle, at: int) -> None:
    file = good.path / "members/m.safetensors"
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    assert "members/m.safetensors is damaged" in refusal(good.path)


def test_a_truncated_file_is_noticed(good: Bundle) -> None:
    file = good.path / "members/m.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "members/m.safetensors is damaged" in refusal(good.path)
    unverified = load(good.path, verify=False)
    with pytest.raises(BundleError, match="not readable as safetensors"):
        unverified.tensors("members/m.safetensors")


def test_a_damaged_table_is_noticed(good: Bundle) -> None:
    (good.path / "tables/prototypes.parquet").write_bytes(b"PAR1")
    assert "prototypes.parquet is damaged" in refusal(good.path)
    with pytest.raises(BundleError, match="not readable as Parquet"):
        load(good.path, verify=False).table("prototypes")


def test_a_wrong_hash_is_noticed(good: Bundle) -> None:
    rewrite(good, lambda content: content["files"].update({"assets/m/tokenizer.json": "0" * 64}))
    assert "assets/m/tokenizer.json is damaged" in refusal(good.path)


def test_a_newer_schema_says_upgrade(good: Bundle) -> None:
    rewrite(good, lambda content: content.update(schema_version=99, something_new=True))
    assert "has schema 99" in refusal(good.path)
    assert "upgrade ray-app" in refusal(good.path)


@pytest.mark.parametrize("value", [None, "1", 0, -1, 1.5])
def test_a_wrong_schema_version_is_refused(good: Bundle, value: object) -> None:
    rewrite(good, lambda content: content.update(schema_version=value))
    assert "schema_version" in refusal(good.path)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside", "a\\..\\b", "", "a\0b"])
def test_a_path_out_of_the_bundle_is_refused(good: Bundle, name: str) -> None:
    (good.path.parent / "outside").write_bytes(b"")
    rewrite(good, lambda content: content["files"].update({name: "0" * 64}))
    assert "leads outside" in refusal(good.path)


@pytest.mark.parametrize("name", ["members/m.safetensors", "bundle.json"])
def test_a_symlink_out_of_the_bundle_is_refused(good: Bundle, name: str) -> None:
    outside = good.path.parent / "outside"
    (good.path / name).rename(outside)
    (good.path / name).symlink_to(outside)
    assert f"{name!r} leads outside" in refusal(good.path)


def test_a_missing_file_is_named(good: Bundle) -> None:
    (good.path / "assets/m/tokenizer.json").unlink()
    assert "assets/m/tokenizer.json is missing" in refusal(good.path)


@pytest.mark.parametrize("link", [False, True])
def test_an_asset_without_a_hash_is_refused(good: Bundle, *, link: bool) -> None:
    extra = good.path / "assets/m/tokenizer.py"
    if link:
        extra.symlink_to(good.path.parent)
    else:
        extra.write_text("evil")
    assert "'assets/m/tokenizer.py', which its manifest does not list" in refusal(good.path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1, 2]", "null", "\x00\xff", "[" * 100_000],
    ids=["empty", "cut", "list", "null", "nul", "deep"],
)
def test_an_unreadable_manifest_is_refused(good: Bundle, text: str) -> None:
    (good.path / "bundle.json").write_text(text, encoding="latin-1")
    refusal(good.path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c.pop("labels"), "labels"),
        (lambda c: c.update(members={}), "members"),
        (lambda c: c["members"].update({"../x": c["members"]["m"]}), "no plain name"),
        (lambda c: c["members"]["m"].update(file="elsewhere"), "refers to 'elsewhere'"),
        (lambda c: c.update(answer="nobody"), "answers with 'nobody'"),
        (lambda c: c.update(temperature=0), "temperature"),
        (lambda c: c["files"].update({"a": 1}), "files.a"),
    ],
)
def test_a_wrong_manifest_is_refused(
    good: Bundle, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    rewrite(good, change)
    assert said in refusal(good.path)


def test_a_head_and_a_detector_of_one_name_are_both_checked(good: Bundle) -> None:
    def change(content: dict[str, Any]) -> None:
        part = content["members"]["m"]
        content["heads"] = {"same": {**part, "file": "heads/gone"}}
        content["detectors"] = {"same": part}

    rewrite(good, change)
    assert "'heads/gone'" in refusal(good.path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_threshold_that_nothing_exceeds_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Threshold(value=value, tpr=0.95, rows=1, quantiles=[0, 1])
    with pytest.raises(ValueError, match="finite"):
        Threshold(value=0, tpr=0.95, rows=1, quantiles=[0, value])


def test_a_metric_may_be_nan(tmp_path: Path) -> None:
    save(tmp_path / "b", manifest(metrics={"gain": float("nan"), "worst": float("-inf")}), contents())
    metrics = load(tmp_path / "b").manifest.metrics
    assert metrics["gain"] != metrics["gain"]
    assert metrics["worst"] == float("-inf")


def test_no_bundle_there_is_said(tmp_path: Path) -> None:
    assert "no such bundle" in refusal(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no bundle.json" in refusal(tmp_path / "empty")


def test_an_unknown_file_or_table_is_refused(good: Bundle) -> None:
    with pytest.raises(BundleError, match="names no file 'x'"):
        good.tensors("x")
    with pytest.raises(BundleError, match="no table 'x'"):
        good.table("x")


def test_saving_replaces_an_older_bundle_whole(good: Bundle) -> None:
    replaced = save(good.path, manifest(name="new"), contents())
    assert load(good.path).manifest.name == "new"
    assert sorted(path.name for path in good.path.iterdir()) == ["bundle.json", "members"]
    assert [path.name for path in good.path.parent.iterdir()] == [good.path.name]
    assert replaced.version != good.version


def test_saving_over_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="is no bundle; nothing was written"):
        save(tmp_path / "b", manifest(), contents())
    assert (tmp_path / "b" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    "wrong",
    [contents(tensors={}), contents(assets={"../x": b""}), contents(tensors={"/x": WEIGHTS})],
    ids=["lacks a file", "asset outside", "tensors outside"],
)
def test_a_refused_save_leaves_nothing(tmp_path: Path, good: Bundle, wrong: Contents) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    for target in (tmp_path / "new", good.path):
        with pytest.raises(BundleError):
            save(target, manifest(), wrong)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert load(good.path).version == good.version


@settings(
    derandomize=True,
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.binary(max_size=200))
def test_any_other_manifest_is_refused_in_one_line(good: Bundle, content: bytes) -> None:
    (good.path / "bundle.json").write_bytes(content)
    refusal(good.path)


# One process that imports, and forks a child to kill for every step of a save.
KILLED = """
import os, signal, sys
from pathlib import Path
import ray_app.bundle as bundles
from tests.test_bundle import contents, manifest

target = Path(sys.argv[1])
calls = step = 0

def killing(function):
    def counted(*args, **kwargs):
        global calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return counted

while True:
    step += 1
    bundles.save(target, manifest(name="old"), contents())
    child = os.fork()
    if not child:
        # Every change to the disk that a save makes is a step.
        bundles._write = killing(bundles._write)
        Path.rename = killing(Path.rename)
        os.fsync = killing(os.fsync)
        Path.chmod = killing(Path.chmod)
        os.unlink = killing(os.unlink)
        os.rmdir = killing(os.rmdir)
        bundles.save(target, manifest(name="new"), contents())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    there = bundles.load(target).manifest.name if target.exists() else "none"
    print(there, os.waitstatus_to_exitcode(status))
    if status == 0:
        break
"""


def test_a_save_that_is_killed_leaves_the_old_bundle_or_none(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "b")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *killed, finished = [line.split() for line in done.stdout.splitlines()]
    assert finished == ["new", "0"]
    assert {code for _, code in killed} == {str(-signal.SIGKILL)}
    names = [name for name, _ in killed]
    assert names.count("old") >= 6
    # Between its two renames there is none for an instant, never half of one; then the old one is removed.
    assert names == ["old"] * names.count("old") + ["none"] + ["new"] * names.count("new")
