"""The command line: what a user can mend is one line and status 2, and leaves nothing; help loads little."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_app import __version__
from ray_app.cli import main
from ray_app.errors import SpecError
from tests.bundles import tiny
from tests.data.rows import images, table

TUNE, SUITE, DATA = "tune/digits.yaml", "datasets/suites/digits.yaml", "datasets/digits.yaml"
Run = Callable[..., tuple[int, str, str]]
COMMAND = [sys.executable, "-c", "from ray_app.cli import main; main()"]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command in this process; returns status, stdout, stderr."""
    # Where the chatter of failed commands is kept.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ray-app", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 1
        out, err = capfd.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle."""
    return tiny(tmp_path_factory.mktemp("cli") / "bundle").path


def written(folder: Path, original: str, name: str = "spec.yaml", **changes: Any) -> Path:
    """A shipped file with top-level keys changed; None drops a key."""
    content = {**yaml.safe_load(Path(original).read_text(encoding="utf-8")), **changes}
    path = folder / name
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}), encoding="utf-8")
    return path


def refusal(result: tuple[int, str, str]) -> str:
    """Check that a command was refused in one line with status 2, and return the line."""
    status, out, err = result
    assert status == 2, (out, err)
    assert all(line.startswith("  building ") for line in out.splitlines()), out
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


# What is wrong, the arguments (spec: the file that `changes` made), and what the line must say.
TUNE_ERRORS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "unknown key": ({"swep": {}}, [], "spec.yaml: swep: unknown key; did you mean 'sweep'?"),
    "wrong type": ({"sweep": {"trials": "many"}}, [], "sweep.trials: input should be a valid integer"),
    "missing key": ({"dataset": None}, [], "spec.yaml: dataset: is missing; add it"),
    "unknown method": (
        {"combine": {"soup": "gredy_soup"}},
        [],
        "unknown method combiners/gredy_soup; did you mean 'greedy_soup'",
    ),
    "unknown option": (
        {"export": {"detectors": {"m": {"name": "mahalanobis", "noize": 1}}}},
        [],
        "detectors/mahalanobis has no option 'noize'; did you mean 'noise'",
    ),
    "unknown model": ({"model": {"name": "timm", "model": "nonesuch"}}, [], "nonesuch"),
    "missing dataset": ({"dataset": "nowhere.yaml"}, [], "nowhere.yaml: no such file in"),
    "unknown split": ({"test_split": "tset"}, [], "has no split 'tset'; did you mean 'test'"),
    "unknown split of a stage": (
        {"stages": [{"name": "a", "split": "trian"}]},
        [],
        "has no split 'trian'; did you mean 'train'",
    ),
    "missing dataset of a stage": (
        {"stages": [{"name": "a", "dataset": "nowhere.yaml"}]},
        [],
        "nowhere.yaml: no such file in",
    ),
    "no equals sign": ({}, ["--set", "sweep.trials"], "--set sweep.trials: expected key=value, such as"),
    "no key": ({}, ["--set", "=3"], "--set =3: expected key=value"),
    "no yaml": ({}, ["--set", "sweep.trials=[1"], "--set sweep.trials=[1, line 1: not valid YAML"),
    "through a value": ({}, ["--set", "name.x=1"], "cannot set 'name.x': name holds no keys"),
    "unknown setting": ({}, ["--set", "sweep.trails=1"], "sweep.trails: unknown key; did you mean 'trials'"),
    "too many CPUs": ({}, ["--set", "sweep.resources.cpu=512"], "512 CPUs asked for, the cluster has 4"),
}


@pytest.mark.parametrize("case", TUNE_ERRORS)
def test_a_bad_sweep_is_one_line_and_leaves_nothing(
    case: str, call: Run, ray_session: None, tmp_path: Path
) -> None:
    changes, arguments, expected = TUNE_ERRORS[case]
    out = tmp_path / "out"
    line = refusal(call("tune", written(tmp_path, TUNE, **changes), "--out", out, *arguments))
    assert expected in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"source": {"name": "parquet", "path": "{tmp}/rows"}, "labels": ["a", "b", "c"]}, "'label'"),
        ({"classes": [99]}, "no rows"),
    ],
    ids=["no label", "zero rows"],
)
def test_a_sweep_on_rows_that_it_cannot_use_is_one_line_and_leaves_nothing(
    changes: dict[str, Any], expected: str, call: Run, ray_session: None, tmp_path: Path
) -> None:
    unlabelled = table(tmp_path / "labelled" / "rows.parquet", 30)
    (tmp_path / "rows").mkdir()
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(unlabelled).drop(["label"]), tmp_path / "rows" / "rows.parquet")
    text = json.dumps(changes).replace("{tmp}", str(tmp_path))
    dataset = written(tmp_path, DATA, "dataset.yaml", **json.loads(text))
    out = tmp_path / "out"
    line = refusal(call("tune", written(tmp_path, TUNE, dataset=str(dataset)), "--out", out))
    assert expected in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: [1", "line 1: not valid YAML"),
        ("- 1", "expected keys and values, got [1]"),
        ("", "expected keys and values, got None"),
    ],
)
def test_what_is_no_spec_is_refused(content: str, expected: str, call: Run, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(content, encoding="utf-8")
    for command in (["tune"], ["data", "build"], ["evaluate", "--bundle", "b"]):
        assert expected in refusal(call(*command, path, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["tune"], ["data", "build"], ["evaluate", "--bundle", "b"]])
def test_a_missing_file_is_refused(command: list[str], call: Run, tmp_path: Path) -> None:
    line = refusal(call(*command, "nowhere.yaml", "--out", tmp_path / "out"))
    assert f"nowhere.yaml: no such file in {Path.cwd()}; give a path relative to it, or absolute" in line
    assert not (tmp_path / "out").exists()


def test_an_unreadable_image_fails_a_build_past_its_limit_and_leaves_nothing(
    call: Run, tmp_path: Path
) -> None:
    folder = images(tmp_path / "pictures")
    (folder / "cat" / "broken.png").write_bytes(b"no picture")
    source = {"name": "images", "path": str(folder)}
    spec = written(tmp_path, DATA, source=source, splits=None, max_rejected=0)
    line = refusal(call("data", "build", spec, "--out", tmp_path / "out"))
    assert "broken.png" in line
    # What was read lies in whole files for the next run; no reader takes it for a dataset.
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert "error: " in refusal(call("data", "show", tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"classes": [99]}, "no rows"),
        ({"source": {"name": "images", "path": "{tmp}/empty"}}, "{tmp}/empty"),
        ({"source": {"name": "images", "path": "{tmp}/nowhere"}}, "{tmp}/nowhere"),
        ({"source": {"name": "sklearn", "dataset": "digitz"}}, "digitz"),
        ({"columns": {"label": "nothing"}}, "nothing"),
        ({"splits": {"a": 0.5}}, "shares sum to 0.5; they must sum to 1"),
    ],
    ids=["zero rows", "empty folder", "no folder", "unknown data", "label missing", "splits"],
)
def test_a_bad_dataset_is_one_line_and_leaves_nothing(
    changes: dict[str, Any], expected: str, call: Run, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    text = json.dumps(changes).replace("{tmp}", str(tmp_path))
    spec = written(tmp_path, DATA, **json.loads(text))
    line = refusal(call("data", "build", spec, "--out", tmp_path / "out"))
    assert expected.replace("{tmp}", str(tmp_path)) in line
    assert not (tmp_path / "out").exists()
    assert expected.replace("{tmp}", str(tmp_path)) in refusal(call("data", "show", spec))


def test_a_damaged_a_missing_and_a_repeated_bundle_are_refused(
    call: Run, good: Path, ray_session: None, tmp_path: Path
) -> None:
    import shutil

    damaged = shutil.copytree(good, tmp_path / "damaged")
    file = next(damaged.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-8])
    out = tmp_path / "out"
    for bundles, expected in (
        ([tmp_path / "nowhere"], "nowhere"),
        ([tmp_path], "bundle.json"),
        ([damaged], file.name),
        ([good, damaged], file.name),
        ([good, good], "the same bundle is given twice; give each once"),
        ([good, shutil.copytree(good, tmp_path / "copy")], "the same bundle is given twice"),
    ):
        arguments = [part for bundle in bundles for part in ("--bundle", bundle)]
        assert expected in refusal(call("evaluate", SUITE, *arguments, "--out", out))
        assert not out.exists()
    for bundle in (damaged, tmp_path / "nowhere"):
        refusal(call("serve", bundle))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"datasets": {"far": {"role": "far_ood", "dataset": DATA}}}, "exactly one has the role `ind`"),
        ({"datasets": {"clean": {"role": "ind", "dataset": "nowhere.yaml"}}}, "nowhere.yaml: no such file"),
        (
            {"datasets": {"clean": {"role": "ind", "dataset": DATA, "split": "tset"}}},
            "has no split 'tset'",
        ),
        ({"num_cpus": 512}, "512 CPUs asked for"),
    ],
)
def test_a_bad_suite_is_one_line_and_leaves_nothing(
    changes: dict[str, Any], expected: str, call: Run, good: Path, ray_session: None, tmp_path: Path
) -> None:
    suite, out = written(tmp_path, SUITE, **changes), tmp_path / "out"
    assert expected in refusal(call("evaluate", suite, "--bundle", good, "--out", out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--host", "0.0.0.0"], "RAY_APP_TOKEN"),  # noqa: S104
        (["--port", "70000"], "'--port': Input should be less than or equal to 65535"),
        (["--set", "policy.acton=reject"], "policy.acton: unknown key; did you mean 'action'"),
        (["--set", "policy"], "expected key=value"),
    ],
)
def test_bad_serving_is_refused(
    arguments: list[str], expected: str, call: Run, good: Path, ray_session: None
) -> None:
    assert expected in refusal(call("serve", good, *arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tun"], "'tun'"),
        (["tune"], "Missing argument 'spec'"),
        (["tune", TUNE, "--otu", "x"], "--otu"),
        (["evaluate", SUITE], "--bundle"),
        (["evaluate", SUITE, "--bundle", "b", "--seeds", "0"], "--seeds"),
        (["data", "show", DATA, "--rows", "some"], "--rows"),
        (["reproduce", "--scale", "huge"], "--scale"),
        (["methods", "detector"], "unknown family 'detector'; did you mean 'detectors'"),
        (["methods", "detectors/mahalanobs"], "did you mean 'mahalanobis'"),
        (["methods", "detectors/mahalanobs", "--json"], "did you mean 'mahalanobis'"),
    ],
)
def test_a_wrong_command_is_one_line(arguments: list[str], expected: str, call: Run) -> None:
    assert expected in refusal(call(*arguments))


def test_an_unknown_paper_is_one_line(call: Run, ray_session: None, tmp_path: Path) -> None:
    line = refusal(call("reproduce", "no_such_paper", "--out", tmp_path / "out"))
    assert "unknown paper 'no_such_paper'" in line
    assert not (tmp_path / "out").exists()


def test_the_demo_deletes_nothing_that_is_not_its_own(call: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work", encoding="utf-8")
    line = refusal(call("demo", "--fresh", "--out", tmp_path / "mine"))
    assert "is not empty and no demo's folder; give an empty or a new one" in line
    assert (tmp_path / "mine" / "thesis.tex").read_text(encoding="utf-8") == "years of work"
    assert len(list((tmp_path / "mine").iterdir())) == 1


@pytest.mark.parametrize("command", [["tune", TUNE], ["data", "build", DATA], ["demo"]])
def test_a_file_where_the_results_should_go_is_refused(
    command: list[str], call: Run, ray_session: None, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("mine", encoding="utf-8")
    assert str(file) in refusal(call(*command, "--out", file))
    assert file.read_text(encoding="utf-8") == "mine"


def test_settings_are_read_as_a_file_would_be(
    call: Run, monkeypatch: pytest.MonkeyPatch, ray_session: None, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def load(path: Path, model: Any, overrides: Any) -> Any:
        seen.append(overrides)
        raise KeyboardInterrupt

    monkeypatch.setattr("ray_app.spec.load", load)
    settings = ["a.lr=1e-5", "b=[1, x]", "c=", "d=x=y", "e=true"]
    status, _, err = call("tune", TUNE, *(part for s in settings for part in ("--set", s)))
    assert seen == [{"a.lr": 1e-5, "b": [1, "x"], "c": None, "d": "x=y", "e": True}]
    assert (status, err) == (130, "interrupted; run the same command again to go on\n")


def test_methods_as_a_table_and_as_json(call: Run) -> None:
    status, out, err = call("methods", "--json")
    listed = json.loads(out)
    assert (status, err) == (0, "")
    assert {"family": "detectors", "name": "mahalanobis"}.items() <= listed[
        [f"{row['family']}/{row['name']}" for row in listed].index("detectors/mahalanobis")
    ].items()
    assert all(row["summary"] for row in listed)
    _, table_text, _ = call("methods")
    for row in listed:
        assert f"{row['family']}/{row['name']}" in table_text
    detectors = call("methods", "detectors")[1]
    assert "detectors/knn" in detectors
    assert "heads/" not in detectors


def test_one_method_as_text_and_as_json(call: Run) -> None:
    described = json.loads(call("methods", "detectors/mahalanobis", "--json")[1])
    assert described["cls"] == "Mahalanobis"
    assert {"layers", "noise", "combine", "shrinkage"} <= set(described["options"])
    text = call("methods", "detectors/mahalanobis")[1]
    assert described["doc"] in text
    assert all(f"  {name} = {value}" in text for name, value in described["options"].items())


def test_tables_print_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from ray_app.terminal import print_table

    print_table(["shape"], [["features [n, d]"], ["[/bold] of [red]"]])
    out = capsys.readouterr().out
    assert "features [n, d]" in out
    assert "[/bold] of [red]" in out


def test_version(call: Run) -> None:
    assert call("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["data", "--help"], ["tune", "-h"]])
def test_help(arguments: list[str], call: Run) -> None:
    status, out, err = call(*arguments)
    assert (status, err) == (0, "")
    assert "Usage:" in out


def test_a_dataset_is_shown(call: Run) -> None:
    status, out, err = call("data", "show", DATA, "--rows", 1)
    assert (status, err) == (0, "")
    assert "1,797 rows" in out
    assert "train 0.6, validation 0.2, test 0.2" in out


def test_chatter_is_kept_where_a_command_fails_and_overwrites_nothing(
    call: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.write_text("years of work", encoding="utf-8")
    # What another user of the machine could lay there.
    (tmp_path / f"ray-app-{os.getpid()}.log").symlink_to(mine)

    def chatty(*_: Any) -> str:
        os.write(2, b"raylet: something native\n")
        if fails:
            raise SpecError("told in a line")
        return "fine"

    monkeypatch.setattr("ray_app.data.show.show", chatty)
    fails = False
    assert call("data", "show", DATA) == (0, "fine\n", "")
    assert not list(tmp_path.glob("ray-app-*-*.log"))
    fails = True
    assert refusal(call("data", "show", DATA)) == "error: told in a line\n"
    (log,) = tmp_path.glob("ray-app-*-*.log")
    assert log.read_text(encoding="utf-8") == "raylet: something native\n"
    assert mine.read_text(encoding="utf-8") == "years of work"


def test_an_unforeseen_error_keeps_its_trace(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("ours to mend")

    monkeypatch.setattr("ray_app.data.show.show", broken)
    with pytest.raises(ZeroDivisionError, match="ours to mend"):
        call("data", "show", DATA)


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_a_real_process_says_one_line_and_leaves_with_two(tmp_path: Path) -> None:
    done = process("tune", TUNE, "--set", "sweep.trails=3", "--out", str(tmp_path / "out"))
    assert "unknown key" in refusal((done.returncode, done.stdout, done.stderr))
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    # Nothing listens on the discard port; Ray by itself would try for a minute.
    done = process("tune", TUNE, "--out", str(tmp_path / "out"), "--address", "127.0.0.1:9")
    line = refusal((done.returncode, done.stdout, done.stderr))
    assert "nobody listens at 127.0.0.1:9" in line
    assert not (tmp_path / "out").exists()


def test_a_reader_that_leaves_early_is_no_error() -> None:
    shell = f"{sys.executable} -c 'from ray_app.cli import main; main()' methods --json | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[", "")


def test_keys_are_made_listed_and_revoked(call: Run, tmp_path: Path) -> None:
    file = ("--file", tmp_path / "keys.json")
    status, token, err = call("keys", "add", "ann", "--expires", "30d", "--per-minute", 60, *file)
    assert (status, err) == (0, "")
    assert token.startswith("ray-app-")
    status, out, _ = call("keys", "list", "--json", *file)
    (row,) = json.loads(out)
    assert (status, row["name"], row["state"], row["per_minute"]) == (0, "ann", "valid", 60)
    assert token.strip() not in out
    assert call("keys", "revoke", "ann", *file)[0] == 0
    assert "revoked" in call("keys", "list", *file)[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "ann", "--expires", "soon"), "--expires soon: expected a number and m, h or d"),
        (("add", "an n"), "1 to 64 letters, digits"),
        (("add", "ann", "--per-minute", "0"), "--per-minute"),
        (("list",), "no such file of keys; make one with `ray-app keys add`"),
        (("revoke", "ann"), "no such file of keys"),
    ],
)
def test_what_is_wrong_with_keys_is_one_line(
    call: Run, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "keys.json"
    status, out, err = call("keys", *arguments, "--file", file)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not file.exists()
