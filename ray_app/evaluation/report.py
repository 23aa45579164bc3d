"""An evaluation's page: tables, curves, distributions, confusion, and the most abnormal rows as pictures."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from sklearn.metrics import roc_curve

from ray_app.evaluation.measure import Piece
from ray_app.evaluation.predict import IMAGE
from ray_app.metrics.classification import confusion
from ray_app.metrics.detection import auroc
from ray_app.report import plots
from ray_app.report.page import Picture, Section, Table, write_page

if TYPE_CHECKING:
    from ray_app.evaluation.run import Evaluation


def write_report(result: "Evaluation") -> Path:
    """Write `report.html` into the evaluation's folder."""
    rows = sum(len(piece.table) for piece in result.pieces)
    names = ", ".join(result.bundles)
    return write_page(
        result.report,
        f"Evaluation: {result.suite.name}",
        f"{names} on {len(result.suite.datasets)} datasets, {rows:,} predictions in all.",
        sections(result),
        {
            **{f"bundle {name}": f"version {bundle.version}" for name, bundle in result.bundles.items()},
            "suite": result.suite.model_dump(mode="json"),
            "versions": next(iter(result.bundles.values())).manifest.versions,
        },
        f"ray-app evaluate datasets/suites/{result.suite.name}.yaml "
        + " ".join(f"--bundle {bundle.path}" for bundle in result.bundles.values()),
    )


def sections(result: "Evaluation") -> list[Section]:
    """Return what a report says of an evaluation; the demo's page has them too."""
    found = [_overview(result)]
    for name in result.bundles:
        pieces = {piece.dataset: piece for piece in result.pieces if piece.bundle == name and piece.seed == 0}
        normal = pieces[result.suite.reference]
        suffix = f" ({name})" if len(result.bundles) > 1 else ""
        found += [
            _heads(result, name, suffix),
            _curves(pieces, normal, suffix),
            _distributions(result, name, pieces, normal, suffix),
            _errors(result, name, normal, suffix),
            _examples(pieces, suffix),
        ]
    return found


def _overview(result: "Evaluation") -> Section:
    columns, rows = result.summary()
    section = Section(
        "Evaluation",
        "Accuracy and calibration error where rows have labels; for each detector the area under the ROC "
        "curve against the in-distribution rows (0.5 is chance). Mean and standard error where seeds differ.",
        tables=[Table(columns, rows)],
    )
    accuracies = {
        f"{row['bundle']} on {row['dataset']}" if len(result.bundles) > 1 else row["dataset"]: row["value"]
        for row in result.records()
        if row["subject"] == "answer" and row["metric"] == "accuracy"
    }
    section.figures.append(("Accuracy of the answer on labelled rows", plots.bars(accuracies, "accuracy")))
    return section


def _heads(result: "Evaluation", bundle: str, suffix: str) -> Section:
    found = {
        (r["dataset"], r["subject"], r["metric"]): r["value"]
        for r in result.records()
        if r["bundle"] == bundle
    }
    subjects = sorted({key[1] for key in found if key[2] == "accuracy"})
    labelled = [name for name in result.suite.datasets if (name, "answer", "accuracy") in found]
    rows = [[subject, *(found[name, subject, "accuracy"] for name in labelled)] for subject in subjects]
    return Section(
        f"Heads{suffix}",
        "Accuracy of the bundle's answer and of each head on the same features.",
        tables=[Table(["head", *labelled], rows)],
    )


def _curves(pieces: dict[str, Piece], normal: Piece, suffix: str) -> Section:
    section = Section(f"Detection{suffix}", "One curve a detector; its area is in brackets.")
    for dataset, piece in pieces.items():
        if piece.role == "ind" or not piece.named("score/"):
            continue
        curves = {}
        for name in piece.named("score/"):
            ind, ood = normal.column(f"score/{name}"), piece.column(f"score/{name}")
            truth = np.repeat([0, 1], [len(ind), len(ood)])
            fpr, tpr, _ = roc_curve(truth, np.concatenate([ind, ood]))
            curves[name] = (fpr, tpr, auroc(ind, ood))
        section.figures.append((f"{dataset} ({piece.role}) against {normal.dataset}", plots.roc(curves)))
    return section


def _distributions(
    result: "Evaluation", bundle: str, pieces: dict[str, Piece], normal: Piece, suffix: str
) -> Section:
    section = Section(
        f"Score distributions{suffix}",
        "Right of the dashed line a row is called abnormal; it was set at export.",
    )
    detectors = result.bundles[bundle].manifest.detectors
    for name in normal.named("score/"):
        groups = {dataset: piece.column(f"score/{name}") for dataset, piece in pieces.items()}
        threshold = detectors[name].threshold
        section.figures.append(
            (name, plots.histograms(groups, "score", threshold.value if threshold else None))
        )
    return section


def _errors(result: "Evaluation", bundle: str, normal: Piece, suffix: str) -> Section:
    labels = result.bundles[bundle].manifest.labels
    known = normal.labels >= 0
    proba, truth = normal.column("proba")[known], normal.labels[known]
    section = Section(f"Confusion and calibration{suffix}", f"On the in-distribution rows, {normal.dataset}.")
    if len(truth):
        section.figures = [
            ("Counts; shades are shares of the true class", plots.confusion(confusion(proba, truth), labels)),
            ("Accuracy against confidence", plots.reliability(proba.max(1), proba.argmax(1) == truth)),
        ]
    return section


def _examples(pieces: dict[str, Piece], suffix: str) -> Section:
    section = Section(
        f"Most abnormal rows{suffix}", "The highest scores of the first detector in each dataset."
    )
    for piece in pieces.values():
        if IMAGE not in piece.table.column_names:
            continue
        images = piece.table[IMAGE].to_pylist()
        rows = [row for row, content in enumerate(images) if content is not None]
        detector = next(iter(piece.named("score/")), None)
        scores = piece.column(f"score/{detector}") if detector else np.zeros(len(images))
        proba = piece.column("proba")
        for row in sorted(rows, key=lambda row: -scores[row]):
            with Image.open(io.BytesIO(images[row])) as image:
                pixels = np.asarray(image)
            taken = f"taken for {proba[row].argmax()} ({proba[row].max():.2f})"
            caption = f"{piece.dataset}: {taken}, score {scores[row]:.3g}"
            section.pictures.append(Picture(pixels, caption))
    return section
