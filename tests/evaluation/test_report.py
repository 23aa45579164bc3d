"""An evaluation's page: a section for each question, a curve for each detector, pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_app.bundle import Bundle
from ray_app.evaluation.measure import Piece, measure, summarised
from ray_app.evaluation.predict import IMAGE
from ray_app.evaluation.report import sections, write_report
from ray_app.evaluation.run import Evaluation
from ray_app.spec import parse
from ray_app.spec.suite import Role, SuiteSpec
from tests.bundles import tiny

SUITE = {
    "name": "small",
    "datasets": {
        "clean": {"role": "ind", "dataset": "d.yaml"},
        "far": {"role": "far_ood", "dataset": "e.yaml"},
    },
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny(tmp_path_factory.mktemp("reporting") / "bundle")


def png() -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def piece(dataset: str, role: Role, *, pictures: int = 2, labelled: bool = True, shift: float = 0.0) -> Piece:
    rng = np.random.default_rng(len(dataset))
    n = 30
    table: dict[str, Any] = {
        "label": rng.integers(0, 10, n) if labelled else np.full(n, -1),
        "proba": rng.dirichlet(np.ones(10), n).tolist(),
        "head/nearest_mean": rng.dirichlet(np.ones(10), n).tolist(),
        "score/max_softmax": rng.normal(shift, 1, n),
    }
    if pictures:
        table[IMAGE] = pa.array([png()] * pictures + [None] * (n - pictures), pa.binary())
    return Piece("tiny", dataset, role, 0, pa.table(table), 0.001)


def result(bundle: Bundle, folder: Path, pieces: list[Piece]) -> Evaluation:
    metrics = measure(pieces, {"tiny": {}})
    suite = parse(SUITE, SuiteSpec, "suite")
    return Evaluation(folder, suite, {"tiny": bundle}, pieces, metrics, summarised(metrics))


def test_the_page_has_a_section_for_each_question(bundle: Bundle, tmp_path: Path) -> None:
    made = result(bundle, tmp_path, [piece("clean", "ind"), piece("far", "far_ood", shift=3)])
    found = {section.title: section for section in sections(made)}
    assert list(found) == [
        "Evaluation",
        "Heads",
        "Detection",
        "Score distributions",
        "Confusion and calibration",
        "Most abnormal rows",
    ]
    assert [row[1] for row in found["Evaluation"].tables[0].rows] == ["clean", "far"]
    assert [caption for caption, _ in found["Detection"].figures] == ["far (far_ood) against clean"]
    assert [caption for caption, _ in found["Score distributions"].figures] == ["max_softmax"]
    assert len(found["Confusion and calibration"].figures) == 2
    assert [row[0] for row in found["Heads"].tables[0].rows] == ["answer", "head/nearest_mean"]
    pictures = found["Most abnormal rows"].pictures
    assert [picture.caption.partition(":")[0] for picture in pictures] == ["clean"] * 2 + ["far"] * 2


def test_the_written_page_says_how_to_repeat_it(bundle: Bundle, tmp_path: Path) -> None:
    made = result(bundle, tmp_path, [piece("clean", "ind"), piece("far", "far_ood")])
    html = write_report(made).read_text(encoding="utf-8")
    assert f"ray-app evaluate datasets/suites/small.yaml --bundle {bundle.path}" in html
    assert f"version {bundle.version}" in html
    assert "tiny on 2 datasets, 60 predictions in all." in html


def test_rows_without_labels_or_pictures_leave_their_parts_empty(bundle: Bundle, tmp_path: Path) -> None:
    pieces = [
        piece("clean", "ind", labelled=False, pictures=0),
        piece("far", "far_ood", labelled=False, pictures=0),
    ]
    made = result(bundle, tmp_path, pieces)
    found = {section.title: section for section in sections(made)}
    assert not found["Confusion and calibration"].figures
    assert not found["Most abnormal rows"].pictures
    assert write_report(made).exists()
