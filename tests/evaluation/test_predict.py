"""One piece of an evaluation in this process: every row once, as the predictor says, whole or not there."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ray_app.bundle import Bundle
from ray_app.data.dataset import open_dataset
from ray_app.errors import DataError
from ray_app.evaluation.predict import IMAGE, key_of, predict_dataset
from ray_app.predictor import Predictor
from ray_app.spec import parse
from ray_app.spec.dataset import DatasetSpec
from ray_app.spec.suite import Entry
from tests.bundles import tiny
from tests.data.rows import digits


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny(tmp_path_factory.mktemp("predicting") / "bundle", detectors={"max_softmax": {}, "energy": {}})


def predict(
    bundle: Bundle, to: Path, *, seed: int = 0, batch_size: int = 16, examples: int = 3, **more: Any
) -> Any:
    dataset = open_dataset(digits())
    entry = parse({"role": "ind", "dataset": "digits", **more}, Entry, "entry")
    path = predict_dataset(
        bundle.path, dataset, entry, seed, batch_size=batch_size, examples=examples, to=to, key="k"
    )
    assert path == to
    return pq.read_table(to)


def test_it_says_what_the_predictor_says(bundle: Bundle, tmp_path: Path) -> None:
    table = predict(bundle, tmp_path / "a.parquet", limit=37)
    rows = open_dataset(digits()).read(limit=37)
    assert table["row_id"].to_pylist() == [str(row) for row in rows["row_id"]]
    assert table["label"].to_pylist() == rows["label"].tolist()
    predictor = Predictor(bundle, "cpu")
    with torch.no_grad():
        said = predictor(predictor.preprocess(rows))
    np.testing.assert_allclose(np.array(table["proba"].to_pylist()), said.proba, rtol=1e-4, atol=1e-6)
    for name, proba in said.heads.items():
        np.testing.assert_allclose(np.array(table[f"head/{name}"].to_pylist()), proba, rtol=1e-4, atol=1e-6)
    for name, score in said.scores.items():
        np.testing.assert_allclose(table[f"score/{name}"].to_numpy(), score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("limit", [1, 16, 17, 32])
def test_a_limit_is_kept_wherever_batches_end(limit: int, bundle: Bundle, tmp_path: Path) -> None:
    assert predict(bundle, tmp_path / "a.parquet", limit=limit).num_rows == limit


def test_batches_do_not_matter(bundle: Bundle, tmp_path: Path) -> None:
    small = predict(bundle, tmp_path / "a.parquet", limit=20, batch_size=3)
    large = predict(bundle, tmp_path / "b.parquet", limit=20, batch_size=64)
    assert small["row_id"].equals(large["row_id"])
    np.testing.assert_allclose(
        small["score/energy"].to_numpy(), large["score/energy"].to_numpy(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("examples", [0, 1, 5, 100])
def test_the_most_abnormal_rows_keep_their_pictures(examples: int, bundle: Bundle, tmp_path: Path) -> None:
    table = predict(bundle, tmp_path / "a.parquet", limit=20, examples=examples)
    kept = np.array([picture is not None for picture in table[IMAGE].to_pylist()])
    assert kept.sum() == min(examples, 20)
    first = next(name for name in table.column_names if name.startswith("score/"))
    scores = table[first].to_numpy()
    if 0 < examples < 20:
        assert scores[kept].min() >= scores[~kept].max()


def test_a_random_transform_is_drawn_anew_for_each_seed(bundle: Bundle, tmp_path: Path) -> None:
    noise: dict[str, Any] = {"transforms": [{"name": "gaussian_noise", "std": 0.3}], "limit": 10}
    runs = [
        predict(bundle, tmp_path / f"{i}.parquet", seed=seed, **noise)["score/energy"].to_pylist()
        for i, seed in enumerate((0, 1, 0))
    ]
    assert runs[0] == runs[2]
    assert runs[0] != runs[1]


def test_the_file_says_what_it_was_made_for(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.parquet"
    table = predict(bundle, path, limit=4)
    assert key_of(path) == "k"
    assert float(table.schema.metadata[b"seconds_per_row"]) > 0
    assert [child.name for child in path.parent.iterdir()] == ["a.parquet"]
    assert key_of(tmp_path / "none.parquet") is None
    path.write_bytes(path.read_bytes()[:100])
    assert key_of(path) is None


def test_no_rows_leave_no_file(bundle: Bundle, tmp_path: Path) -> None:
    entry = parse({"role": "ind", "dataset": "digits"}, Entry, "entry")
    with pytest.raises(DataError, match="no rows"):
        predict_dataset(
            bundle.path,
            open_dataset(digits(classes=[99])),
            entry,
            0,
            batch_size=8,
            examples=0,
            to=tmp_path / "a.parquet",
            key="k",
        )
    assert not list(tmp_path.iterdir())


def test_what_a_build_encoded_an_evaluation_does_not_encode_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray_app.data.build import build
    from ray_app.methods.encoders.timm import Timm

    cache = str(tmp_path / "cache")
    plain = predict(bundle, tmp_path / "plain.parquet")
    compute = {"executor": "local", "cache": cache, "dtype": "float32"}
    build(
        digits(bundle=str(bundle.path), logits=True, scorers=[{"name": "detectors/energy"}], compute=compute),
        tmp_path / "built",
    )

    def fails(*args: Any) -> Any:
        raise AssertionError("a forward pass that the cache should have saved")

    monkeypatch.setattr(Timm, "forward", fails)
    path = tmp_path / "cached.parquet"
    entry = parse({"role": "ind", "dataset": "digits"}, Entry, "entry")
    predict_dataset(
        bundle.path,
        open_dataset(digits()),
        entry,
        0,
        batch_size=16,
        examples=3,
        to=path,
        key="k",
        cache=cache,
    )
    table = pq.read_table(path)
    assert table["row_id"] == plain["row_id"]
    np.testing.assert_allclose(
        np.array(table["proba"].to_pylist()), np.array(plain["proba"].to_pylist()), rtol=1e-4, atol=1e-6
    )
    assert np.isnan(float(table.schema.metadata[b"seconds_per_row"]))


def test_a_row_that_cannot_be_read_is_named(bundle: Bundle, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "images" / "zero"
    folder.mkdir(parents=True)
    Image.new("L", (8, 8)).save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"no image")
    spec = {
        "name": "images",
        "source": {"name": "images", "path": str(tmp_path / "images")},
        "max_rejected": 0,
    }
    entry = parse({"role": "ind", "dataset": "images"}, Entry, "entry")
    with pytest.raises(DataError, match=r"bad\.png"):
        predict_dataset(
            bundle.path,
            open_dataset(parse(spec, DatasetSpec, "images")),
            entry,
            0,
            batch_size=4,
            examples=0,
            to=tmp_path / "a.parquet",
            key="k",
        )
