from pathlib import Path

import pytest

from ray_app.data.show import show
from ray_app.errors import DataError
from tests.data.rows import digits, spec, table


def test_a_page_has_columns_classes_splits_and_the_first_rows() -> None:
    page = show(digits(splits={"train": 0.75, "test": 0.25}, unit_rows=1000), rows=2)
    assert "1,797 rows of input in 2 units" in page
    assert "image uint8[8, 8, 1], label int64" in page
    assert "train 0.75, test 0.25" in page
    assert page.count("row_id  ") == 2
    assert "digits#1" in page


def test_long_texts_are_cut(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", 2, text=["x" * 500, "short"])
    page = show(spec(source={"name": "parquet", "path": str(path)}))
    assert max(map(len, page.splitlines())) < 120
    assert "short" in page


def test_nothing_to_show_is_told() -> None:
    with pytest.raises(DataError, match="no rows in classes"):
        show(digits(classes=[11]))
