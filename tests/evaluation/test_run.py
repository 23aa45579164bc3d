"""An evaluation on Ray: tables, report, seeds, and nothing that is there already is done again."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ray_app.bundle import Bundle
from ray_app.errors import BundleError, DataError, SpecError
from ray_app.evaluation.run import Evaluation, evaluate
from ray_app.progress import Silent
from ray_app.spec import parse
from ray_app.spec.suite import SuiteSpec
from tests.bundles import tiny

DIGITS = {"dataset": "datasets/digits.yaml", "split": "test", "limit": 40}
CONTENT = {
    "name": "small",
    "batch_size": 16,
    "examples": 2,
    "datasets": {
        "clean": {"role": "ind", **DIGITS},
        "noise": {"role": "corrupted", **DIGITS, "transforms": [{"name": "gaussian_noise", "std": 0.3}]},
        "fgsm": {"role": "attacked", **DIGITS, "transforms": ["fgsm"]},
        "photos": {"role": "far_ood", "dataset": "datasets/photo_patches.yaml", "limit": 30},
    },
}


def suite(**datasets: dict[str, object]) -> SuiteSpec:
    content = {**CONTENT, "datasets": datasets} if datasets else CONTENT
    return parse(content, SuiteSpec, "suite")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    detectors = {"max_softmax": {}, "knn": {"k": 3}}
    return tiny(tmp_path_factory.mktemp("evaluated") / "bundle", detectors=detectors)


@pytest.fixture(scope="module")
def done(ray_session: None, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = tmp_path_factory.mktemp("evaluation")
    return evaluate(suite(), [bundle.path], seeds=2, folder=folder, reporter=Silent())


def stamps(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("rows/**/*.parquet")
    }


def test_tables_and_report_lie_in_the_folder(done: Evaluation) -> None:
    assert pq.read_table(done.folder / "metrics.parquet").equals(done.metrics)
    assert pq.read_table(done.folder / "means.parquet").to_pylist() == done.records()
    assert done.report == done.folder / "report.html"
    assert done.report.read_text(encoding="utf-8").count("<section") >= 5
    json.dumps(done.records())
    assert not list(done.folder.rglob(".*"))


def test_every_dataset_has_what_its_role_allows(done: Evaluation) -> None:
    found = {(r["dataset"], r["subject"], r["metric"]): r["value"] for r in done.records()}
    for dataset in ("clean", "noise", "fgsm"):
        for subject in ("answer", "head/nearest_mean"):
            assert 0 <= found[dataset, subject, "accuracy"] <= 1
    assert ("photos", "answer", "accuracy") not in found
    for detector in ("detector/knn", "detector/max_softmax"):
        assert all(0 <= found[dataset, detector, "auroc"] <= 1 for dataset in ("noise", "fgsm", "photos"))
        assert ("clean", detector, "auroc") not in found
    assert found["photos", "detector/knn", "auroc"] > 0.9


def test_random_parts_are_drawn_for_each_seed_and_the_rest_once(done: Evaluation) -> None:
    assert {Path(name).stem for name in stamps(done.folder)} == {
        *(f"{dataset}-{seed}" for dataset in ("noise", "fgsm") for seed in (0, 1)),
        "clean-0",
        "photos-0",
    }
    errors = {
        r["dataset"]: (r["seeds"], r["error"])
        for r in done.records()
        if r["subject"] == "detector/knn" and r["metric"] == "auroc"
    }
    assert errors["noise"][0] == 2
    assert errors["noise"][1] > 0
    assert errors["photos"] == (1, 0)
    cells = {row[1]: row for row in done.summary()[1]}
    columns = done.summary()[0]
    assert " ± " in cells["noise"][columns.index("knn")]
    assert cells["clean"][columns.index("knn")] == "-"
    assert cells["photos"][columns.index("accuracy")] == "-"


def test_a_piece_has_a_row_for_each_row(done: Evaluation) -> None:
    table = pq.read_table(done.folder / "rows" / "tiny" / "photos-0.parquet")
    assert table.num_rows == 30
    assert len(set(table["row_id"].to_pylist())) == 30
    assert set(table["label"].to_pylist()) == {-1}
    assert all(len(proba) == 10 and abs(sum(proba) - 1) < 1e-5 for proba in table["proba"].to_pylist())
    pictures = [picture for picture in table["image_pixels"].to_pylist() if picture is not None]
    assert len(pictures) == 2
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


def test_a_second_run_does_no_piece_again(done: Evaluation, bundle: Bundle) -> None:
    before = stamps(done.folder)
    again = evaluate(suite(), [bundle.path], seeds=2, folder=done.folder, reporter=Silent())
    assert stamps(done.folder) == before
    assert again.records() == done.records()


def test_only_what_changed_is_done_again(done: Evaluation, bundle: Bundle) -> None:
    before = stamps(done.folder)
    (done.folder / "rows" / "tiny" / "clean-0.parquet").write_bytes(b"cut off")
    datasets = {name: dict(entry) for name, entry in CONTENT["datasets"].items()}  # type: ignore[attr-defined]
    datasets["photos"]["limit"] = 20
    evaluate(suite(**datasets), [bundle.path], seeds=2, folder=done.folder, reporter=Silent())
    after = stamps(done.folder)
    changed = {Path(name).stem for name in after if after[name] != before[name]}
    assert changed == {"clean-0", "photos-0"}


def test_two_bundles_of_one_name_are_told_apart(ray_session: None, bundle: Bundle, tmp_path: Path) -> None:
    other = tiny(tmp_path / "other", heads=("naive_bayes",))
    small = suite(clean={"role": "ind", **DIGITS})
    result = evaluate(small, [bundle.path, other.path], seeds=1, folder=tmp_path / "out", reporter=Silent())
    assert list(result.bundles) == ["tiny", f"tiny@{other.version}"]
    assert {row[0] for row in result.summary()[1]} == set(result.bundles)


def test_what_cannot_be_evaluated_is_refused_before_anything_is_written(
    ray_session: None, bundle: Bundle, tmp_path: Path
) -> None:
    out, clean = tmp_path / "out", {"role": "ind", **DIGITS}
    far = {"role": "far_ood", "dataset": "datasets/textures.yaml"}
    for paths, datasets, error, expected in (
        ([bundle.path, bundle.path], {"clean": clean}, SpecError, "the same bundle is given twice"),
        ([tmp_path], {"clean": clean}, BundleError, "bundle.json"),
        ([bundle.path], {"clean": clean, "far": {**far, "split": "tset"}}, SpecError, "no split 'tset'"),
        ([bundle.path], {"clean": clean, "far": {**far, "dataset": "no.yaml"}}, SpecError, "no such file"),
    ):
        with pytest.raises(error, match=expected):
            evaluate(suite(**datasets), paths, seeds=1, folder=out, reporter=Silent())
        assert not out.exists()


def test_no_rows_are_refused(ray_session: None, bundle: Bundle, tmp_path: Path) -> None:
    dataset = tmp_path / "none.yaml"
    dataset.write_text(
        "name: none\nsource: {name: sklearn, dataset: digits}\nclasses: [99]\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match="no rows"):
        evaluate(
            suite(clean={"role": "ind", "dataset": str(dataset)}),
            [bundle.path],
            seeds=1,
            folder=tmp_path / "out",
            reporter=Silent(),
        )
    assert not list(tmp_path.glob("out/*.parquet"))
