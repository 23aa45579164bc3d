"""The part of a run's page about its weights: a plane of the loss, distances, soups against ensembles."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_app.report.page import Section, Table
from ray_app.report.weight_plots import Mark, agreement, matrix, plane
from ray_app.spec.tune import Report
from ray_app.tune.geometry import CANDIDATES, CHECK, DISTANCES, PLANE, ROWS


def weights(folder: Path, wanted: Report, problem: str | None) -> Section:
    """Return what the tables of the geometry say; those that are not there are named with the reason."""
    section = Section(
        "The weights", f"Losses are mean cross-entropies in nats on at most {ROWS} validation rows."
    )
    if problem:
        section.text += f" Not all could be measured: {problem}"
    parts = {PLANE: _plane, CHECK: _check, DISTANCES: _distances}
    if not wanted.plane:
        del parts[PLANE]
        section.text += " The plane is switched off in the spec."
    for name, show in parts.items():
        path = folder / name
        if not path.exists():
            section.text += "" if problem else f" {name} is not measured yet."
            continue
        table = pq.read_table(path)
        if table.num_rows:
            show(section, table)
        else:
            section.text += f" No {name.removesuffix('.parquet')}: {table.schema.metadata[b'note'].decode()}."
    return section


def _plane(section: Section, table: pa.Table) -> None:
    rows = table.to_pylist()
    cells = sorted((row["y"], row["x"], row["loss"]) for row in rows if row["kind"] == "grid")
    xs, ys = sorted({x for _, x, _ in cells}), sorted({y for y, _, _ in cells})
    loss = np.array([value for _, _, value in cells], dtype=float).reshape(len(ys), len(xs))
    points = [row for row in rows if row["kind"] != "grid"]
    marks = [Mark(r["name"], r["kind"], r["x"], r["y"], r["loss"]) for r in points]
    candidates = [row["name"] for row in points if row["kind"] == "candidate"]
    soup = next((row for row in points if row["kind"] == "soup"), None)
    caption = (
        f"The loss on the plane through the start (square) and the candidates {' and '.join(candidates)} "
        "(circles), with the losses there; darker is worse."
    )
    if soup is not None:
        caption += (
            f" The soup {soup['name']} (diamond) lies {soup['off']:.3g} off the plane; where it is projected "
            f"to, the loss is {soup['loss']:.3f}."
        )
    moved = max(abs(row["loss"] - row["own_loss"]) for row in points if row["kind"] != "soup")
    if moved > _SAME:
        caption += (
            f" Normalisation statistics are estimated anew everywhere; with their own, the losses of start "
            f"and candidates differ from these by up to {moved:.3g}."
        )
    section.figures.append((caption, plane(np.array(xs), np.array(ys), loss, marks)))
    section.tables.append(
        Table(
            ["point", "x", "y", "off the plane", "loss on the plane", "its own loss"],
            [
                [r["name"], *(round(r[key], 6) for key in ("x", "y", "off")), r["loss"], r["own_loss"]]
                for r in points
            ],
            "On the plane normalisation statistics are estimated anew; a point's own loss is with its own.",
        )
    )


def _check(section: Section, table: pa.Table) -> None:
    rows = table.to_pylist()
    names = [f"{row['first']}, {row['second']}" for row in rows]
    predicted, measured = ([row[key] for row in rows] for key in ("predicted", "measured"))
    off = float(np.max(np.abs(np.subtract(predicted, measured))))
    above = sum(value > 0 for value in measured)
    section.figures.append(
        (
            f"By how much the loss of a soup of two candidates exceeds that of their ensemble: as the loss's "
            f"curvature and the confidence of answers predict it (Wortsman et al. 2022), and as measured. A "
            f"point is a pair; on the dotted line the prediction holds. The ensemble is better for {above} "
            f"of {len(rows)} pairs; the prediction is off by {off:.3g} nats at most.",
            agreement(predicted, measured, names, "nats"),
        )
    )
    columns = ["pair", "predicted", "measured", "from curvature", "from variance"]
    shown = [
        [name, row["predicted"], row["measured"], row["curvature"], row["variance"]]
        for name, row in zip(names, rows, strict=True)
    ]
    section.tables.append(Table(columns, shown, _SOUPS))


# Nats; rounding is less.
_SAME = 1e-3
_SOUPS = (
    "Loss of the soup of two minus that of their ensemble, in nats. A soup's normalisation statistics are "
    "estimated anew; a candidate has its own."
)


def _distances(section: Section, table: pa.Table) -> None:
    rows = table.to_pylist()
    names = list(dict.fromkeys(row["first"] for row in rows))
    kinds = {row["first"]: row["first_kind"] for row in rows}
    apart = np.array([row["distance"] for row in rows]).reshape(len(names), len(names))
    own = [index for index, name in enumerate(names) if kinds[name] == "candidate"]
    few = f" ({CANDIDATES} of them, evenly over the ranks)" if len(own) == CANDIDATES else ""
    moved = apart[0, own]
    caption = (
        f"Euclidean distances between the weights of the start, the candidates, best first{few}, and the "
        f"combinations. Candidates lie {moved.min():.3g} to {moved.max():.3g} from the start"
    )
    if len(own) > 1:
        between = apart[np.ix_(own, own)][np.triu_indices(len(own), 1)]
        caption += f", and {between.min():.3g} to {between.max():.3g} from each other"
    section.figures.append((f"{caption}.", matrix(apart, names, "distance")))
