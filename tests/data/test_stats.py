from pathlib import Path

import numpy as np
import pytest

from ray_app.data.build import build
from ray_app.data.diff import diff
from ray_app.data.stats import records, stats_page, summarize, table
from tests.data.rows import digits, images, spec
from tests.data.rows import table as parquet


def test_summaries_equal_numpy_on_the_whole_column(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(1e6, 1.0, 3000)
    values[5] = np.nan
    path = parquet(tmp_path / "a.parquet", rows=3000, value=values)
    columns = {c.name: c for c in summarize(_yaml(tmp_path, path))}
    value = columns["value"]
    good = values[np.isfinite(values)]
    assert (value.rows, value.missing) == (3000, 1)
    assert value.mean == pytest.approx(good.mean(), abs=1e-6)
    assert value.std == pytest.approx(good.std(), abs=1e-6)
    assert (value.least, value.most) == (good.min(), good.max())
    assert value.quantile(0.5) == pytest.approx(np.median(good), abs=0.05)
    assert columns["label"].frequent() == [("0", 1000), ("1", 1000), ("2", 1000)]
    assert columns["text"].measure == "characters"
    assert columns["text"].most == len("row 2999")
    names, rows = table(list(columns.values()))
    assert all(len(row) == len(names) for row in rows)


def _yaml(folder: Path, path: Path) -> Path:
    file = folder / "rows.yaml"
    file.write_text(f"name: rows\nsource: {{name: parquet, path: {path}}}\n")
    return file


def test_pages_have_the_scores_histograms(tmp_path: Path) -> None:
    build(digits(scorers=["sharpness"], compute={"executor": "local"}), tmp_path / "out")
    columns = summarize(tmp_path / "out")
    page = stats_page(str(tmp_path / "out"), columns, tmp_path / "page.html").read_text()
    assert "score_sharpness" in page
    assert "<svg" in page
    assert {record["column"] for record in records(columns)} == {
        "row_id",
        "image",
        "label",
        "score_sharpness",
    }


def test_diff_tells_rows_columns_and_values_apart(tmp_path: Path) -> None:
    local = {"executor": "local"}
    one = digits(classes=[0, 1], scorers=["sharpness"], compute=local)
    other = digits(
        classes=[1, 2], transforms=[{"name": "invert"}], scorers=["sharpness", "contrast"], compute=local
    )
    a, b = tmp_path / "a", tmp_path / "b"
    build(one, a)
    build(other, b)
    found = diff(a, b)
    assert (found.rows, found.only_a, found.only_b, found.both) == ((360, 359), 178, 177, 182)
    assert found.columns_only == ([], ["score_contrast"])
    assert found.changed["image"].rows == 182
    assert found.changed["image"].largest == 255
    assert found.changed["label"].rows == 0
    assert "only in a 178 rows" in str(found)
    assert not found.same
    assert diff(a, a).same
    assert str(diff(a, a)).endswith("no difference")


def test_diff_by_parts_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_app.data import diff as module

    wanted = spec(
        source={"name": "images", "path": str(images(tmp_path / "in", 40))}, compute={"executor": "local"}
    )
    build(wanted, tmp_path / "a")
    build(spec(**{**wanted.model_dump(exclude_none=True), "sample": 0.5}), tmp_path / "b")
    whole = diff(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    assert diff(tmp_path / "a", tmp_path / "b").record() == whole.record()
    assert whole.only_a > 0
    assert whole.only_b == 0
