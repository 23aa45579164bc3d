from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_app.data import int8
from ray_app.data.build import build
from ray_app.data.dataset import open_dataset
from ray_app.data.encoding import Encoding, Settings
from ray_app.data.sources import Read
from ray_app.errors import SpecError
from ray_app.methods.encoders.transformers import Transformers
from ray_app.spec.dataset import DatasetSpec
from ray_app.storage import Place
from tests.bert import tiny_bert

TEXTS = ["the cat sat", "a dog", "the dog sat on the mat", "unknown words are fine", "the cats"] * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


def spec(folder: Path, to: Path, dtype: str, **more: Any) -> DatasetSpec:
    pq.write_table(pa.table({"text": TEXTS}), to / "texts.parquet")
    return DatasetSpec.model_validate(
        {
            "name": "texts",
            "source": {"name": "parquet", "path": str(to / "texts.parquet")},
            "encoder": {"name": "transformers", "model": str(folder), **more},
            "compute": {"dtype": dtype, "executor": "local"},
        }
    )


def embeddings(what: DatasetSpec, out: Path) -> np.ndarray:
    build(what, out)
    return np.stack(open_dataset(out).read()["embedding"])


@pytest.mark.parametrize("more", [{}, {"long": "chunk", "max_length": 5, "overlap": 1}])
def test_a_build_in_8_bits_is_near_one_in_float32(folder: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    exact = embeddings(spec(folder, tmp_path, "float32", **more), tmp_path / "exact")
    rounded = embeddings(spec(folder, tmp_path, "int8", **more), tmp_path / "rounded")
    assert not np.array_equal(exact, rounded)
    cosine = (exact * rounded).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert cosine.min() > 0.98
    # What it costs is told, and it was measured, not assumed.
    assert '"int8"' in (tmp_path / "rounded" / "calibration.json").read_text()
    assert cosine.min() == pytest.approx(told(tmp_path / "rounded"), abs=0.02)


def told(out: Path) -> float:
    import json

    trials = json.loads((out / "calibration.json").read_text())["trials"]
    (cosine,) = {trial["cosine"] for trial in trials if trial["cosine"] is not None}
    return float(cosine)


def test_all_processes_of_a_build_round_alike(folder: Path, tmp_path: Path) -> None:
    file = Place.of(tmp_path / int8.FILE)
    made = []
    for part in (TEXTS[:5], TEXTS[2:]):
        # Each begins with other rows; only the first one's say how to round.
        encoding = Encoding(Transformers(model=str(folder)))
        encoding.offer_int8(rows(part), file)
        encoding.use_settings(Settings(dtype="int8"))
        found = encoding.each(Read(rows(TEXTS)), lambda features, _: {"embedding": features.pooled.numpy()})
        made.append(found.batch["embedding"])
    np.testing.assert_array_equal(*made)


def rows(texts: list[str]) -> dict[str, np.ndarray]:
    names = np.array([f"r{i}" for i in range(len(texts))], dtype=object)
    return {"row_id": names, "text": np.array(texts, dtype=object)}


def test_what_cannot_be_had_is_refused_before_anything_starts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match="int8 is for encoders/transformers, not for encoders/timm"):
        int8.check("timm")
    monkeypatch.setattr(int8, "find_spec", lambda package: None if package == "nncf" else object())
    with pytest.raises(SpecError, match=r"needs the `int8` extra \(nncf is not installed\)"):
        build(spec(folder, tmp_path, "int8"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
