"""What every source promises, over all of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_app import registry
from ray_app.data.sources import Source
from ray_app.methods.generators import Generator as Endless
from tests.data.rows import images, table


class Noise(Endless):
    """Rows of noise."""

    def row(self, rng: np.random.Generator) -> dict[str, np.ndarray | int | float | str]:
        return {"tensor": rng.standard_normal(3).astype(np.float32), "label": int(rng.integers(2))}


@pytest.fixture(params=["digits", "photo_patches", "wine", "parquet", "images", "generator"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
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
        assert len(read.batch["row_id"]) + len(read.rejected) == len(unit)
        columns = [[np.asarray(value).tobytes() for value in column] for column in read.batch.values()]
        out += zip(*columns, strict=True)
    return out


def test_rows_are_the_same_for_every_size_of_unit(source: Source) -> None:
    whole = rows(source, 10_000)
    assert rows(source, 5) == whole
    ids = [source.read(unit).batch["row_id"].tolist() for unit in source.units(10_000)]
    flat = [row for part in ids for row in part]
    assert len(set(flat)) == len(flat)
    assert all(isinstance(row, str) for row in flat)


def test_units_are_unique_and_deterministic_and_fit_for_file_names(source: Source) -> None:
    units = source.units(4)
    assert len({unit.id for unit in units}) == len(units)
    assert source.units(4) == units
    assert all(0 < len(unit) <= 4 for unit in units)
    assert all("/" not in unit.id and len(unit.id) < 128 for unit in units)


def test_columns_are_known_before_anything_is_read(source: Source) -> None:
    read = source.read(source.units(4)[0])
    assert set(read.batch) == {"row_id", *source.columns}


def test_streaming_any_units_in_any_order_equals_reading_them_alone(source: Source) -> None:
    units = source.units(3)
    chosen = [*units[2:6], *units[:2], *units[7:8]]
    for (unit, streamed), expected in zip(source.stream(chosen), chosen, strict=True):
        assert unit == expected
        alone = source.read(unit)
        assert streamed.batch.keys() == alone.batch.keys()
        for name in alone.batch:
            np.testing.assert_array_equal(streamed.batch[name], alone.batch[name])


def test_fingerprints_are_stable(source: Source) -> None:
    assert source.fingerprint() == source.fingerprint()
    assert len(source.fingerprint()) >= 16
