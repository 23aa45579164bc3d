"""From predictions to numbers: one long table of bundle, dataset, seed, subject, metric, value."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ray_app.metrics.calibration import ece
from ray_app.metrics.classification import accuracy, nll
from ray_app.metrics.detection import detection_report
from ray_app.spec.suite import Role

if TYPE_CHECKING:
    from ray_app.bundle import Threshold


@dataclass(frozen=True)
class Piece:
    """What one bundle said of one dataset with one seed."""

    bundle: str
    dataset: str
    role: Role
    seed: int
    table: pa.Table
    seconds_per_row: float

    def column(self, name: str) -> np.ndarray:
        """Return a numeric column [n], or a list column as a matrix [n, c]."""
        column = self.table[name].combine_chunks()
        if pa.types.is_list(column.type):
            return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        return column.to_numpy(zero_copy_only=False)

    @property
    def labels(self) -> np.ndarray:
        """int64 [n], -1 where there is none."""
        return self.column("label")

    def named(self, prefix: str) -> list[str]:
        """Return the heads (`head/`) or detectors (`score/`) that it has columns of."""
        return [name.removeprefix(prefix) for name in self.table.column_names if name.startswith(prefix)]


def measure(pieces: list[Piece], thresholds: Mapping[str, "Mapping[str, Threshold]"]) -> pa.Table:
    """Return every metric of every piece.

    Args:
        pieces: All of them; the in-distribution ones are what detection compares with.
        thresholds: Bundle → detector → its threshold.

    Returns:
        Columns bundle, dataset, role, seed, subject (`answer`, `head/<name>` or `detector/<name>`), metric,
        value.
    """
    normal = {(piece.bundle, piece.seed): piece for piece in pieces if piece.role == "ind"}
    found = [
        {
            "bundle": piece.bundle,
            "dataset": piece.dataset,
            "role": piece.role,
            "seed": piece.seed,
            "subject": subject,
            "metric": metric,
            "value": float(value),
        }
        for piece in pieces
        for subject, metric, value in (
            *_quality(piece),
            *_detection(piece, normal[piece.bundle, piece.seed], thresholds[piece.bundle]),
        )
    ]
    return pa.Table.from_pylist(found)


def summarised(table: pa.Table) -> pa.Table:
    """Return means over seeds with their standard errors (0 for one seed): columns value, error, seeds."""
    keys = ["bundle", "dataset", "role", "subject", "metric"]
    # Groups come in the order of a hash otherwise.
    placed = table.append_column("place", pa.array(range(len(table)), pa.int64()))
    aggregated = placed.group_by(keys, use_threads=False).aggregate(
        [
            ("place", "min"),
            ("value", "mean"),
            ("value", "stddev", pa.compute.VarianceOptions(ddof=1, min_count=0)),
            ("value", "count"),
        ]
    )
    grouped = aggregated.sort_by("place_min")
    counts = grouped["value_count"].to_numpy()
    deviations = np.nan_to_num(grouped["value_stddev"].to_numpy(zero_copy_only=False).astype(float))
    return pa.table(
        {
            **{key: grouped[key] for key in keys},
            "value": grouped["value_mean"],
            "error": deviations / np.sqrt(counts),
            "seeds": counts,
        }
    )


def _quality(piece: Piece) -> Iterator[tuple[str, str, float]]:
    if math.isfinite(piece.seconds_per_row):
        yield "answer", "seconds_per_row", piece.seconds_per_row
    known = piece.labels >= 0
    if piece.role in ("near_ood", "far_ood") or not known.any():
        return
    labels = piece.labels[known]
    for subject, column in [("answer", "proba"), *((f"head/{n}", f"head/{n}") for n in piece.named("head/"))]:
        proba = piece.column(column)[known]
        yield subject, "accuracy", accuracy(proba, labels)
        yield subject, "nll", nll(proba, labels)
        yield subject, "ece", ece(proba, labels)


def _detection(
    piece: Piece, normal: Piece, thresholds: "Mapping[str, Threshold]"
) -> Iterator[tuple[str, str, float]]:
    for name in piece.named("score/"):
        scores = piece.column(f"score/{name}")
        if name in thresholds:
            yield f"detector/{name}", "flagged", float(np.mean(scores > thresholds[name].value))
        if piece.role != "ind":
            for metric, value in detection_report(normal.column(f"score/{name}"), scores).items():
                yield f"detector/{name}", metric, value
