"""Scorers that learn do so once for a build, from the rows that `fit` names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_app.data.build import build
from ray_app.data.dataset import open_dataset
from ray_app.data.learned import build_scorer, sample
from ray_app.errors import DataError, SpecError
from ray_app.spec import Method
from tests.data.rows import spec, table

LOCAL = {"executor": "local"}
NGRAM: dict[str, Any] = {"name": "perplexity", "model": "ngram", "order": 2}


def words(folder: Path, name: str, rows: int = 60) -> Path:
    rng = np.random.default_rng(len(name))
    text = [" ".join(rng.choice(["the", "cat", "sat", name], 6)) for _ in range(rows)]
    return table(folder / f"{name}.parquet", rows=rows, text=text)


def rows(folder: Path, name: str = "mat", **content: Any) -> Any:
    path = folder / f"{name}.parquet"
    if not path.exists():
        words(folder, name)
    return spec(source={"name": "parquet", "path": str(path)}, compute=LOCAL, unit_rows=20, **content)


def by_hand(batch: dict[str, np.ndarray], on: dict[str, np.ndarray]) -> np.ndarray:
    scorer = build_scorer(Method.model_validate(NGRAM))
    return scorer.fit(batch).score(on)  # type: ignore[attr-defined, no-any-return]


def test_a_scorer_learns_from_a_split_of_the_dataset(tmp_path: Path) -> None:
    wanted = rows(tmp_path, splits={"a": 0.5, "b": 0.5}, scorers=[{**NGRAM, "fit": "a"}])
    build(wanted, tmp_path / "out")
    built, source = open_dataset(tmp_path / "out").read(), open_dataset(wanted)
    np.testing.assert_allclose(built["score_perplexity"], by_hand(source.read("a"), source.read()))
    assert (tmp_path / "out" / "fitted" / "perplexity.safetensors").exists()


def test_or_from_another_dataset(tmp_path: Path) -> None:
    clean = tmp_path / "clean.yaml"
    clean.write_text(f"name: clean\nsource: {{name: parquet, path: {words(tmp_path, 'dog')}}}\n")
    build(rows(tmp_path, scorers=[{**NGRAM, "fit": str(clean)}]), tmp_path / "out")
    built = open_dataset(tmp_path / "out").read()
    expected = by_hand(open_dataset(clean).read(), open_dataset(rows(tmp_path)).read())
    np.testing.assert_allclose(built["score_perplexity"], expected)


def test_it_learns_once_also_when_the_build_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = rows(tmp_path, scorers=[{**NGRAM, "fit": {"rows": 40}}])
    build(wanted, tmp_path / "out")
    (tmp_path / "out" / "dataset.json").unlink()
    next((tmp_path / "out" / "data").glob("*.parquet")).unlink()
    cls = type(build_scorer(Method.model_validate(NGRAM)))
    monkeypatch.setattr(cls, "fit", lambda *_: pytest.fail("it learned again"))
    assert build(wanted, tmp_path / "out").resumed == 2


def test_a_sample_by_hash_is_the_same_in_any_order_and_grows(tmp_path: Path) -> None:
    small, large = (sample(open_dataset(rows(tmp_path)), None, n)["row_id"].tolist() for n in (10, 30))
    assert len(small) == 10
    assert set(small) < set(large)
    many = open_dataset(rows(tmp_path).model_copy(update={"unit_rows": 7}))
    assert sample(many, None, 10)["row_id"].tolist() == small


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (NGRAM, "scorers/perplexity has learned nothing; give it `fit"),
        ({**NGRAM, "fit": "c"}, "has no split 'c'"),
        ({"name": "heuristics", "fit": "a"}, "heuristics: learns from nothing; leave `fit` out"),
        ({**NGRAM, "fit": 3}, "`fit` names a split"),
        ({"name": "membership", "kind": "loss", "model": "none", "fit": "a"}, "learns from nothing"),
        ({**NGRAM, "fit": "none/such.yaml"}, "such.yaml"),
    ],
)
def test_what_nobody_can_learn_from_is_refused(tmp_path: Path, scorer: dict[str, Any], message: str) -> None:
    with pytest.raises((SpecError, DataError), match=message) as caught:
        build(rows(tmp_path, splits={"a": 0.5, "b": 0.5}, scorers=[scorer]), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
