from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_app.data.build import build
from ray_app.data.dataset import open_dataset
from ray_app.methods.encoders import Features
from tests.data.rows import ENCODER, digits


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each forward pass was given."""
    from ray_app.methods.encoders.timm import Timm

    seen: list[int] = []
    original = Timm.forward

    def counted(self: Timm, inputs: Any, want: Any = ()) -> Features:
        seen.append(len(inputs))
        return original(self, inputs, want)

    monkeypatch.setattr(Timm, "forward", counted)
    return seen


def wanted(cache: Path, **more: Any) -> Any:
    return digits(encoder=ENCODER, compute={"executor": "local", "cache": str(cache)}, **more)


def test_a_row_is_encoded_once_whoever_asks(tmp_path: Path, forwards: list[int]) -> None:
    cache = tmp_path / "cache"
    first = build(wanted(cache, classes=[0, 1], unit_rows=300), tmp_path / "a")
    before = sum(forwards)
    # Other rows around them, other units, another order of batches.
    second = build(wanted(cache, classes=[1, 2], unit_rows=77), tmp_path / "b")
    assert first.accounts is not None
    assert second.accounts is not None
    a, b = open_dataset(tmp_path / "a").read(), open_dataset(tmp_path / "b").read()
    twos = int((b["label"] == 2).sum())
    # Digits that are equal to the last bit are one content.
    assert sum(forwards) - before <= twos
    assert second.accounts.spent["cached"] >= len(b["label"]) - twos
    shared = {row: i for i, row in enumerate(a["row_id"])}
    pairs = [(shared[row], i) for i, row in enumerate(b["row_id"]) if row in shared]
    ones, others = map(list, zip(*pairs, strict=True))
    assert len(ones) == 182
    np.testing.assert_array_equal(a["embedding"][ones], b["embedding"][others])


def test_with_and_without_a_cache_is_the_same(tmp_path: Path) -> None:
    build(digits(encoder=ENCODER, classes=[0, 1], layers=True, compute={"executor": "local"}), tmp_path / "a")
    cached = wanted(tmp_path / "cache", classes=[0, 1], layers=True)
    build(cached, tmp_path / "b")
    build(cached, tmp_path / "c")
    first = open_dataset(tmp_path / "a").read()
    for name in ("b", "c"):
        other = open_dataset(tmp_path / name).read()
        assert list(first["row_id"]) == list(other["row_id"])
        for column in (name for name in first if name.startswith("embedding")):
            np.testing.assert_allclose(first[column], other[column], atol=1e-5)


def test_detectors_that_learn_find_what_they_are_fitted_on(tmp_path: Path, forwards: list[int]) -> None:
    spec = wanted(
        tmp_path / "cache",
        classes=[0, 1],
        splits={"train": 0.5, "test": 0.5},
        scorers=[{"name": "detectors/mahalanobis", "layers": "last", "fit": "train"}],
    )
    result = build(spec, tmp_path / "out")
    assert result.accounts is not None
    assert sum(forwards) <= result.rows
    assert result.accounts.spent["cached"] > 0.3 * result.rows


def test_other_weights_and_other_wishes_are_other_features(tmp_path: Path, forwards: list[int]) -> None:
    build(wanted(tmp_path / "cache", classes=[0]), tmp_path / "a")
    before = sum(forwards)
    other = {**ENCODER, "seed": 1}
    spec = digits(encoder=other, classes=[0], compute={"executor": "local", "cache": str(tmp_path / "cache")})
    build(spec, tmp_path / "b")
    assert sum(forwards) > before
    build(wanted(tmp_path / "cache", classes=[0], layers=True), tmp_path / "c")
    assert len(list((tmp_path / "cache").glob("*.sqlite"))) == 3


def test_the_environment_names_a_cache_where_the_spec_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_APP_CACHE", str(tmp_path / "cache"))
    build(digits(encoder=ENCODER, classes=[0], compute={"executor": "local"}), tmp_path / "a")
    assert len(list((tmp_path / "cache").glob("*.sqlite"))) == 1
