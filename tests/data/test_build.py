import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_app.data.build import build
from ray_app.data.dataset import Dataset, open_dataset
from ray_app.data.ledger import footer_of
from ray_app.errors import DataError, RunError, SpecError
from ray_app.storage import Place
from tests.data.rows import ENCODER, digits, images, spec, table
from tests.processes import kill, model_processes

LOCAL = {"executor": "local"}
ON_RAY = {"executor": "ray", "actors": 1}


def row_ids(folder: Path) -> list[str]:
    return [
        row
        for path in (folder / "data").glob("*.parquet")
        for row in pq.read_table(path)["row_id"].to_pylist()
    ]


def all_once(folder: Path, count: int) -> bool:
    found = Counter(row_ids(folder))
    return len(found) == count and set(found.values()) == {1}


def temporary_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_rows_without_an_encoder_load_neither_torch_nor_ray(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(digits().model_dump_json(exclude_none=True))
    program = (
        "import sys\n"
        "from ray_app.data.build import build\n"
        "build(sys.argv[1], sys.argv[2])\n"
        "sys.exit(' '.join({'torch', 'ray'} & set(sys.modules)) or 0)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "spec.json"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_built_dataset_opens_with_the_same_rows_splits_and_labels(tmp_path: Path) -> None:
    original = digits(splits={"train": 0.7, "test": 0.3}, seed=3, unit_rows=500, compute=LOCAL)
    result = build(original, tmp_path / "out")
    assert (result.rows, result.units, result.resumed, result.rejected) == (1797, 4, 0, 0)
    built, source = open_dataset(tmp_path / "out"), open_dataset(original)
    assert built.labels == source.labels
    assert built.splits == ["train", "test"]
    for split in (None, "train", "test"):
        here, there = built.read(split), source.read(split)
        assert list(here["row_id"]) == list(there["row_id"])
        np.testing.assert_array_equal(here["image"], there["image"])
        np.testing.assert_array_equal(here["label"], there["label"])


def test_lineage_is_in_every_file_and_in_the_manifest(tmp_path: Path) -> None:
    first = build(digits(splits={"train": 0.5, "test": 0.5}, compute=LOCAL), tmp_path / "a")
    child = spec(parent=str(tmp_path / "a"), split="train", classes=[3, 4], compute=LOCAL)
    result = build(child, tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "dataset.json").read_text())
    assert manifest["lineage"]["parent_fingerprint"] == first.fingerprint
    assert manifest["rows"] == result.rows == len(row_ids(tmp_path / "b"))
    for path in (tmp_path / "b" / "data").glob("*.parquet"):
        footer = footer_of(Place.of(path))
        assert footer["parent_fingerprint"] == first.fingerprint
        assert footer["spec"]["classes"] == [3, 4]
        assert footer["rows"] == pq.read_metadata(path).num_rows
    assert open_dataset(tmp_path / "b").fingerprint == result.fingerprint


def test_embeddings_and_scores_equal_the_encoder_and_detector_by_hand(tmp_path: Path) -> None:
    import torch

    from ray_app import registry
    from ray_app.spec import Method

    derived = digits(
        splits={"train": 0.6, "test": 0.4},
        encoder=ENCODER,
        layers=True,
        scorers=[{"name": "detectors/mahalanobis", "layers": "last", "fit": "train"}],
        keep=[],
        unit_rows=300,
        compute={"executor": "local", "batch_size": 77},
    )
    build(derived, tmp_path / "out")
    built = open_dataset(tmp_path / "out").read()
    source = open_dataset(derived)
    rows = source.read()
    encoder = registry.build("encoders", **_given(Method.model_validate(ENCODER)))
    with torch.inference_mode():
        features = encoder.eval()(encoder.preprocess(rows), ("layers",))
        train = np.isin(rows["row_id"], source.read("train")["row_id"])
        detector = registry.build("detectors", "mahalanobis", {"layers": "last"})
        detector.fit(features[torch.from_numpy(train)], torch.from_numpy(rows["label"][train]))
        scores = detector.score(features).numpy()
    order = {row: i for i, row in enumerate(rows["row_id"])}
    at = [order[row] for row in built["row_id"]]
    np.testing.assert_allclose(built["embedding"], features.pooled.numpy()[at], atol=1e-5)
    for name, layer in features.layers.items():
        np.testing.assert_allclose(built[f"embedding_{name}"], layer.numpy()[at], atol=1e-5)
    np.testing.assert_allclose(built["score_mahalanobis"], scores[at], rtol=2e-3, atol=1e-3)
    assert set(built) == {
        *("row_id", "label", "embedding", "score_mahalanobis"),
        *(f"embedding_{name}" for name in features.layers),
    }


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_bundle_encodes_and_its_detectors_score(
    tmp_path: Path, executor: str, request: pytest.FixtureRequest
) -> None:
    import torch

    from ray_app.predictor import Predictor
    from tests.bundles import tiny

    if executor == "ray":
        request.getfixturevalue("ray_session")
    # One that needs gradients with respect to the inputs: the engine must not be in the way.
    detectors = {"mahalanobis": {"noise": 0.002, "layers": "last"}, "max_softmax": {}}
    bundle = tiny(tmp_path / "bundle", members=2, detectors=detectors)
    wanted = digits(
        classes=[1],
        bundle=str(bundle.path),
        logits=True,
        scorers=["sharpness", "detectors/mahalanobis", "detectors/max_softmax"],
        compute={"executor": executor, "actors": 1, "batch_size": 100},
    )
    build(wanted, tmp_path / "out")
    rows = open_dataset(tmp_path / "out").read()
    predictor = Predictor(bundle)
    with torch.no_grad():
        expected = predictor(predictor.preprocess(rows))
    np.testing.assert_allclose(rows["embedding"], expected.features.pooled, atol=1e-5)
    np.testing.assert_allclose(rows["logits"], expected.features.logits, atol=1e-4)
    for name in detectors:
        np.testing.assert_allclose(rows[f"score_{name}"], expected.scores[name], rtol=1e-3, atol=1e-4)
    assert rows["score_sharpness"].dtype == np.float64
    with pytest.raises(DataError, match=r"has no detector 'knn' .detectors: mahalanobis, max_softmax"):
        build(
            digits(bundle=str(bundle.path), scorers=["detectors/knn"], compute=wanted.compute),
            tmp_path / "no",
        )
    assert not (tmp_path / "no").exists()


def _given(method: Any) -> dict[str, Any]:
    return {"name": method.name, "given": method.options}


def test_embeddings_are_plain_arrow_lists_that_any_reader_reads(tmp_path: Path) -> None:
    build(digits(encoder=ENCODER, classes=[0], compute=LOCAL), tmp_path / "out")
    kind = pq.read_table(tmp_path / "out" / "data").schema.field("embedding").type
    assert (kind.list_size, str(kind.value_type)) == (96, "float")


def test_a_second_run_reads_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path / "in")
    wanted = spec(source={"name": "images", "path": str(tmp_path / "in")}, unit_rows=2, compute=LOCAL)
    build(wanted, tmp_path / "out")
    # As if it had been killed just before it was finished.
    (tmp_path / "out" / "dataset.json").unlink()
    parts = tmp_path / "out" / "data"
    before = {path: path.stat().st_mtime_ns for path in parts.glob("*")}
    monkeypatch.setattr(Dataset, "stream", lambda *_, **__: pytest.fail("input was read"))
    again = build(wanted, tmp_path / "out")
    assert again.resumed == again.units == 3
    assert before == {path: path.stat().st_mtime_ns for path in parts.glob("*")}
    assert build(wanted, tmp_path / "out") == again


def test_an_interrupted_build_goes_on_and_leaves_no_temporary_files(tmp_path: Path) -> None:
    wanted = digits(unit_rows=100, compute=LOCAL)

    class Stop(Exception):  # noqa: N818
        pass

    class Reporter:
        def say(self, text: str) -> None: ...

        def work(self, title: str, total: float | None) -> Any:
            return _stopping(after=7)

    from contextlib import contextmanager

    @contextmanager
    def _stopping(after: int) -> Any:
        class Work:
            left = after

            def advance(self, done: float = 1, note: str = "") -> None:
                self.left -= int(done)
                if self.left < 0:
                    raise Stop

        yield Work()

    with pytest.raises(Stop):
        build(wanted, tmp_path / "out", reporter=Reporter())
    kept = row_ids(tmp_path / "out")
    assert len(kept) == 800
    (tmp_path / "out" / "data" / ".writing-left").write_bytes(b"half a file")
    result = build(wanted, tmp_path / "out")
    assert result.resumed == 8
    assert all_once(tmp_path / "out", 1797)
    assert temporary_files(tmp_path / "out") == []


def test_changed_spec_and_changed_input_are_refused_by_name_and_force_begins_anew(tmp_path: Path) -> None:
    path = table(tmp_path / "in" / "a.parquet", rows=20)
    wanted = {"source": {"name": "parquet", "path": str(path)}, "compute": LOCAL, "unit_rows": 5}
    build(spec(**wanted), tmp_path / "out")
    with pytest.raises(DataError, match=r"`seed` was 0 and is 1; .*--force"):
        build(spec(**wanted, seed=1), tmp_path / "out")
    assert all_once(tmp_path / "out", 20)
    table(path, rows=25)
    with pytest.raises(DataError, match=r"the input changed: a\.parquet .*--force"):
        build(spec(**wanted), tmp_path / "out")
    assert build(spec(**wanted), tmp_path / "out", force=True).rows == 25
    assert all_once(tmp_path / "out", 25)


def test_runtime_settings_may_change_between_runs(tmp_path: Path) -> None:
    build(digits(compute=LOCAL), tmp_path / "out")
    assert build(digits(compute={"batch_size": 3}, max_rejected=0.5), tmp_path / "out").resumed == 2


def test_another_folders_content_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something else"):
        build(digits(), tmp_path, force=True)
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"source": {"name": "parquet", "path": "none.parquet"}}, "none.parquet: no such file"),
        ({"source": {"name": "sklearn", "dataset": "digits"}, "columns": {"image": "picture"}}, "picture"),
        ({"source": {"name": "sklearn", "dataset": "photo_patches"}, "classes": [1]}, "'label'"),
        ({"source": {"name": "sklearn", "dataset": "digits"}, "classes": [77]}, "no rows in classes"),
        ({"source": {"name": "sklearn", "dataset": "wine"}, "encoder": ENCODER}, "'image'"),
        ({"source": {"name": "sklearn", "dataset": "digits"}, "keep": ["hue"]}, "'hue'"),
        (
            {
                "source": {"name": "sklearn", "dataset": "digits"},
                "encoder": ENCODER,
                "scorers": [{"name": "detectors/mahalanobis", "fit": "train"}],
            },
            "no split 'train'",
        ),
        (
            {
                "source": {"name": "sklearn", "dataset": "digits"},
                "splits": {"train": 1.0},
                "encoder": ENCODER,
                "scorers": [{"name": "detectors/energy", "fit": "train"}],
            },
            "has no logits",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_gives_one_line_and_leaves_no_folder(
    tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    with pytest.raises((DataError, SpecError), match=message) as caught:
        build(spec(**content, compute=LOCAL), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_unreadable_image_costs_one_row_and_is_kept_aside_with_its_reason(tmp_path: Path) -> None:
    images(tmp_path / "in", 8)
    (tmp_path / "in" / "cat" / "002.png").write_bytes(b"no picture")
    wanted = {"source": {"name": "images", "path": str(tmp_path / "in")}, "unit_rows": 3, "compute": LOCAL}
    with pytest.raises(DataError, match=r"1 of 8 rows rejected.*cat/002\.png: not a readable image"):
        build(spec(**wanted), tmp_path / "strict")
    result = build(spec(**wanted, max_rejected=0.2), tmp_path / "out")
    assert (result.rows, result.rejected) == (7, 1)
    (rejected,) = [pq.read_table(path).to_pylist() for path in (tmp_path / "out" / "rejected").glob("*")]
    assert rejected[0]["row_id"] == "cat/002.png"
    assert "not a readable image" in rejected[0]["reason"]
    assert build(spec(**wanted, max_rejected=0.2), tmp_path / "out").rejected == 1


def test_units_without_rows_are_remembered_as_finished(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", rows=12, label=[0] * 6 + [1] * 6)
    wanted = spec(source={"name": "parquet", "path": str(path)}, classes=[1], unit_rows=3, compute=LOCAL)
    assert build(wanted, tmp_path / "out").rows == 6
    assert len(list((tmp_path / "out" / "empty").glob("*"))) == 2
    (tmp_path / "out" / "dataset.json").unlink()
    again = build(wanted, tmp_path / "out")
    assert (again.rows, again.resumed) == (6, 4)


@pytest.mark.usefixtures("ray_session")
def test_on_ray_and_in_process_builds_hold_the_same(tmp_path: Path) -> None:
    def wanted(compute: dict[str, Any]) -> Any:
        exact = {**compute, "dtype": "float32"}
        return digits(encoder=ENCODER, splits={"a": 0.5, "b": 0.5}, unit_rows=300, compute=exact)

    build(wanted(LOCAL), tmp_path / "local")
    build(wanted(ON_RAY), tmp_path / "ray")
    local, ray = (open_dataset(tmp_path / name) for name in ("local", "ray"))
    assert local.fingerprint == ray.fingerprint
    assert all_once(tmp_path / "ray", 1797)
    here, there = local.read(), ray.read()
    np.testing.assert_array_equal(here["row_id"], there["row_id"])
    np.testing.assert_array_equal(here["image"], there["image"])
    np.testing.assert_allclose(here["embedding"], there["embedding"], atol=1e-5)


@pytest.mark.usefixtures("ray_session")
def test_a_stages_error_comes_out_of_ray_as_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no logits") as caught:
        build(digits(encoder=ENCODER, logits=True, compute=ON_RAY), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("ray_session")
def test_a_pool_that_never_fits_is_refused_with_the_sum(tmp_path: Path) -> None:
    for compute, message in [
        ({"executor": "ray", "actors": 9}, "has 4 CPUs; 9 encoder .* need 11"),
        ({"executor": "ray", "num_gpus": 1}, "has 0 GPUs"),
    ]:
        with pytest.raises(RunError, match=message):
            build(digits(encoder=ENCODER, compute=compute), tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_killed_encoder_process_loses_and_doubles_nothing(tmp_path: Path) -> None:
    from contextlib import contextmanager

    killed: list[int] = []

    class Killer:
        def say(self, text: str) -> None: ...

        @contextmanager
        def work(self, title: str, total: float | None) -> Any:
            yield self

        def advance(self, done: float = 1, note: str = "") -> None:
            if done and not killed:
                killed.extend(model_processes())
                for pid in killed:
                    kill(pid)

    wanted = digits(encoder=ENCODER, unit_rows=40, compute=ON_RAY)
    result = build(wanted, tmp_path / "out", reporter=Killer())
    assert killed
    assert result.rows == 1797
    assert all_once(tmp_path / "out", 1797)
    assert temporary_files(tmp_path / "out") == []


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_killed_driver_run_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    wanted = digits(encoder=ENCODER, unit_rows=20, compute=ON_RAY)
    (tmp_path / "spec.json").write_text(wanted.model_dump_json(exclude_none=True))
    program = "import sys\nfrom ray_app.data.build import build\nbuild(sys.argv[1], sys.argv[2])\n"
    command = [sys.executable, "-c", program, str(tmp_path / "spec.json"), str(tmp_path / "out")]
    # A session of its own: what it leaves when it is killed is not this test's family.
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    while process.poll() is None and _committed(tmp_path / "out") < 5:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = _committed(tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert 5 <= finished < 90
    result = build(wanted, tmp_path / "out")
    assert result.resumed >= finished
    assert all_once(tmp_path / "out", 1797)
    assert temporary_files(tmp_path / "out") == []


def _committed(folder: Path) -> int:
    return len(list((folder / "data").glob("part-*")))
