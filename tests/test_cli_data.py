"""The verbs of datasets, from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_cli import Run, call

__all__ = ["call"]


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A small dataset with a score and a selector."""
    content: dict[str, Any] = {
        "name": "small",
        "source": {"name": "sklearn", "dataset": "digits"},
        "classes": [0, 1],
        "scorers": ["sharpness"],
        "selectors": [{"name": "top_fraction", "by": "score_sharpness", "fraction": 0.5}],
        "compute": {"executor": "local", "price_per_hour": 2.5},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "small.yaml"


def test_a_build_leaves_a_page_and_says_what_it_took(call: Run, spec: Path, tmp_path: Path) -> None:
    status, out, _ = call("data", "build", spec, "--out", tmp_path / "out")
    assert status == 0
    for told in (
        "rows/s",
        "bottleneck",
        "price of a million rows",
        "top_fraction left 180 of 360",
        "report: ",
    ):
        assert told in out
    page = (tmp_path / "out" / "report.html").read_text()
    for told in ("Where the time went", "Selection", "score_sharpness", "top_fraction"):
        assert told in page
    status, out, _ = call("data", "build", spec, "--out", tmp_path / "out")
    assert "rows/s" not in out


def test_machines_get_json(call: Run, spec: Path, tmp_path: Path) -> None:
    _, out, _ = call("data", "build", spec, "--out", tmp_path / "out", "--json")
    said = json.loads(out)
    assert (said["rows"], said["rejected"], said["selectors"][0]["rows_after"]) == (180, 0, 180)
    assert said["run"]["price_per_million"] > 0
    assert set(said["run"]["stages_s"]) == {"read", "prepare", "write"}
    _, out, _ = call("data", "stats", tmp_path / "out", "--json")
    assert {column["column"] for column in json.loads(out)} == {"row_id", "image", "label", "score_sharpness"}


def test_two_builds_are_compared(call: Run, spec: Path, tmp_path: Path) -> None:
    call("data", "build", spec, "--out", tmp_path / "a")
    status, out, _ = call("data", "diff", tmp_path / "a", spec)
    assert status == 1
    assert "only in b 180 rows" in out
    status, out, _ = call("data", "diff", tmp_path / "a", tmp_path / "a", "--json")
    assert (status, json.loads(out)["same"]) == (0, True)


def test_rows_and_statistics_are_pages_too(call: Run, spec: Path, tmp_path: Path) -> None:
    status, out, _ = call("data", "show", spec, "--rows", 3, "--html", tmp_path / "rows.html")
    assert status == 0
    assert "digits#0" in out
    assert (tmp_path / "rows.html").read_text().count("data:image/png") == 3
    status, out, _ = call("data", "stats", spec, "--html", tmp_path / "stats.html")
    assert status == 0
    assert "label" in out
    assert "0 (178)" in (tmp_path / "stats.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["stats", "none"], "none"),
        (["stats", "datasets/digits.yaml", "--split", "tran"], "did you mean 'train'"),
        (["diff", "datasets/digits.yaml", "none.yaml"], "none.yaml"),
        (["build", "datasets/digits.yaml", "--out", "nonsense://x/y"], "nonsense://x: cannot be opened"),
    ],
)
def test_what_is_not_there_is_one_line(call: Run, arguments: list[str], expected: str) -> None:
    status, _, err = call("data", *arguments)
    assert status == 2
    assert expected in err
    assert err.count("\n") == 1
