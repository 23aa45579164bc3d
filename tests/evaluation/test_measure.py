"""From predictions to numbers, against scikit-learn and by hand."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from ray_app.bundle import Threshold
from ray_app.evaluation.measure import Piece, measure, summarised
from ray_app.spec.suite import Role

THRESHOLD = Threshold(value=0.5, tpr=0.95, rows=10, quantiles=[0.0, 1.0])


def piece(dataset: str, role: Role, seed: int = 0, *, shift: float = 0.0, **columns: Any) -> Piece:
    """Random predictions of 60 rows, one a third without a label."""
    rng = np.random.default_rng([seed, len(dataset)])
    proba = rng.dirichlet(np.ones(3), size=60)
    table = {
        "label": rng.integers(-1, 3, size=60),
        "proba": proba.tolist(),
        "head/bayes": rng.dirichlet(np.ones(3), size=60).tolist(),
        "score/knn": rng.normal(shift, 1, size=60).round(1),
        "score/energy": rng.normal(0, 1, size=60),
        **columns,
    }
    return Piece("b", dataset, role, seed, pa.table(table), 0.25)


def values(pieces: list[Piece]) -> dict[tuple[str, int, str, str], float]:
    table = measure(pieces, {"b": {"knn": THRESHOLD}})
    return {(r["dataset"], r["seed"], r["subject"], r["metric"]): r["value"] for r in table.to_pylist()}


def test_accuracy_and_nll_are_scikit_learns_on_rows_with_labels() -> None:
    clean = piece("clean", "ind")
    found = values([clean])
    known = clean.labels >= 0
    assert 0 < known.sum() < 60
    for subject, column in (("answer", "proba"), ("head/bayes", "head/bayes")):
        proba, labels = clean.column(column)[known], clean.labels[known]
        assert found["clean", 0, subject, "accuracy"] == accuracy_score(labels, proba.argmax(1))
        assert found["clean", 0, subject, "nll"] == pytest.approx(log_loss(labels, proba, labels=[0, 1, 2]))
        assert 0 <= found["clean", 0, subject, "ece"] <= 1
    assert found["clean", 0, "answer", "seconds_per_row"] == 0.25


def test_detection_compares_with_the_in_distribution_rows_of_the_same_seed() -> None:
    pieces = [piece("clean", "ind", seed) for seed in (0, 1)]
    pieces += [piece("far", "far_ood", seed, shift=1.5) for seed in (0, 1)]
    found = values(pieces)
    for seed in (0, 1):
        ind, ood = (p.column("score/knn") for p in pieces if p.seed == seed)
        truth = np.repeat([0, 1], 60)
        expected = roc_auc_score(truth, np.concatenate([ind, ood]))
        assert found["far", seed, "detector/knn", "auroc"] == pytest.approx(expected, abs=1e-12)
        # The share of abnormal rows let through at the threshold that lets 95 % of the normal ones through.
        limit = np.sort(ind)[int(np.ceil(0.95 * 60)) - 1]
        assert found["far", seed, "detector/knn", "fpr95"] == pytest.approx(np.mean(ood <= limit))
    assert found["far", 0, "detector/knn", "auroc"] != found["far", 1, "detector/knn", "auroc"]


def test_flagged_is_the_share_above_the_bundles_threshold() -> None:
    far = piece("far", "far_ood", shift=1.5)
    found = values([piece("clean", "ind"), far])
    assert found["far", 0, "detector/knn", "flagged"] == np.mean(far.column("score/knn") > 0.5)
    # Also of normal rows: the rate of false alarms. Without a threshold nothing is flagged.
    assert ("clean", 0, "detector/knn", "flagged") in found
    assert ("far", 0, "detector/energy", "flagged") not in found


def test_what_makes_no_sense_is_not_there() -> None:
    found = values(
        [piece("clean", "ind"), piece("far", "far_ood"), piece("bare", "corrupted", label=[-1] * 60)]
    )
    assert not [key for key in found if key[0] in ("far", "bare") and key[3] in ("accuracy", "nll", "ece")]
    assert not [key for key in found if key[0] == "clean" and key[3] in ("auroc", "fpr95")]
    assert ("bare", 0, "detector/knn", "auroc") in found


def test_means_and_standard_errors_over_seeds() -> None:
    rows = [
        {
            "bundle": "b",
            "dataset": d,
            "role": "ind",
            "seed": s,
            "subject": "answer",
            "metric": "accuracy",
            "value": v,
        }
        for d, s, v in (("x", 0, 0.8), ("y", 0, 0.3), ("x", 1, 0.9), ("x", 2, 1.0))
    ]
    table = summarised(pa.Table.from_pylist(rows)).to_pylist()
    assert [(r["dataset"], r["seeds"]) for r in table] == [("x", 3), ("y", 1)]
    assert table[0]["value"] == pytest.approx(0.9)
    assert table[0]["error"] == pytest.approx(0.1 / np.sqrt(3))
    assert (table[1]["value"], table[1]["error"]) == (0.3, 0.0)


def test_the_means_come_in_the_order_of_the_metrics() -> None:
    pieces = [piece("clean", "ind"), *(piece(f"far{i}", "far_ood", shift=i) for i in range(30))]
    table = measure(pieces, {"b": {}})
    keys = ("dataset", "subject", "metric")
    written = [tuple(row[key] for key in keys) for row in table.to_pylist()]
    assert [tuple(row[key] for key in keys) for row in summarised(table).to_pylist()] == written
