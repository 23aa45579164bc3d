"""What a finished run's weights are like, measured in one Ray task and kept as Parquet beside the report.

`distances.parquet`: a row a pair of start, candidates and combinations. `soup_check.parquet`: the loss of a
soup of two against that of their ensemble, predicted and measured. `plane.parquet`: the loss on a plane.
A table that has nothing to say has no rows, and a `note` in its metadata.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ray_app.methods.combiners import Candidate, Weights
from ray_app.session import fetch
from ray_app.tune import landscape
from ray_app.tune.combine import SINGLE, OnRows, Result, key_of
from ray_app.tune.ledger import Ledger
from ray_app.tune.run import TuneRun, submit_for
from ray_app.tune.start import Start, build_model
from ray_app.tune.store import digest, file_key, open_state

if TYPE_CHECKING:
    from ray_app.spec.tune import TuneSpec
    from ray_app.tune.training import Rows

DISTANCES, PLANE, CHECK = "distances.parquet", "plane.parquet", "soup_check.parquet"
START = "start"
ROWS = 500
"""Validation rows at most, drawn at random, that losses are measured on."""
TRAINING_ROWS = 512
"""Training rows at most, likewise, that normalisation statistics are estimated on."""
CANDIDATES, CHECKED = 16, 5
"""Candidates at most: whose distances are measured, and whose pairs are checked."""
# Of what is computed: a change here makes the tables of before stale.
_VERSION = 1


@dataclass(frozen=True)
class Asked:
    """What is measured, and where it goes."""

    spec: "TuneSpec"
    num_classes: int
    folder: Path
    """Of the run."""
    start: Start
    combined: list[tuple[str, Path]]
    """Name and weights of each combination that is one model."""
    soup: str | None
    """Which of them the plane shows."""


def measure(run: TuneRun) -> None:
    """Write the three tables; those that are there already, of the same weights and rows, are left alone."""
    combined = [(one.name, one.files[0]) for one in run.results if one.name != SINGLE and _is_new(one, run)]
    soup = soup_of(run.results, run.chosen)
    classes = len(run.bundle.manifest.labels)
    asked = Asked(run.spec, classes, run.folder, run.start, combined, soup.name if soup else None)
    fetch(submit_for(run.spec, measured, asked, run.splits.training, run.splits.validation))


def _is_new(result: Result, run: TuneRun) -> bool:
    """Whether it is one model, and not the best candidate, which a combination gave way to."""
    single = next(one for one in run.results if one.name == SINGLE)
    gave_way = result.ingredients == single.ingredients and result.value == single.value
    return len(result.files) == 1 and not gave_way


def soup_of(results: Sequence[Result], chosen: Result) -> Result | None:
    """Return the soup that the plane shows: the exported one, or the best; it has several ingredients."""
    soups = [one for one in results if len(one.files) == 1 and len(one.ingredients) > 1]
    return max(soups, key=lambda one: (one.name == chosen.name, one.value), default=None)


def sampled(candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    """Return at most so many, evenly over the ranks: the best and the worst are among them."""
    if len(candidates) <= most:
        return list(candidates)
    return [candidates[index] for index in np.linspace(0, len(candidates) - 1, most).round().astype(int)]


def drawn(rows: "Rows", most: int) -> "Rows":
    """Return at most so many rows, by chance but always the same: a split may be sorted by class."""
    if len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:most]]


def measured(asked: Asked, training: "Rows", validation: "Rows") -> None:
    """Measure and write, in a process that has the rows."""
    spec, sweep = asked.spec, asked.spec.sweep
    trials = Ledger(asked.folder / "trials")
    candidates = trials.candidates(sweep.metric, -1.0 if sweep.metric == "nll" else 1.0)
    few = sampled(candidates, CANDIDATES)
    paths = {one.name: trials.weights(one.name) for one in few} | dict(asked.combined)
    encoder = build_model(spec.model, asked.num_classes)
    encoder.to("cuda" if sweep.resources.gpu and torch.cuda.is_available() else "cpu")
    rows, fitting = drawn(validation, ROWS), drawn(training[slice(sweep.rows)], TRAINING_ROWS)
    evaluate = OnRows(encoder, rows, fitting, "nll", start=open_state(asked.start.path))
    evaluate.look_at(few)
    points = {name: open_state(path) for name, path in paths.items()}
    weights = [asked.start.key, *((name, file_key(path)) for name, path in paths.items())]

    geometry = _Geometry(asked, evaluate, rows.labels, [one.name for one in few], points)
    made: dict[str, tuple[Callable[[], pa.Table], list[Any]]] = {
        DISTANCES: (geometry.distances, []),
        CHECK: (geometry.check, [key_of(rows), key_of(fitting), CHECKED]),
    }
    if spec.report.plane:
        made[PLANE] = (geometry.plane, [key_of(rows), key_of(fitting), asked.soup])
    for name, (make, on) in made.items():
        _keep(asked.folder / name, digest(_VERSION, weights, on), make)


class _Geometry:
    def __init__(
        self,
        asked: Asked,
        evaluate: OnRows,
        labels: torch.Tensor,
        candidates: list[str],
        points: dict[str, Weights],
    ) -> None:
        self._asked, self._evaluate, self._labels = asked, evaluate, labels
        self._candidates, self._points = candidates, points
        self._start = open_state(asked.start.path)
        self._products: np.ndarray | None = None

    def inner(self) -> np.ndarray:
        if self._products is None:
            no_parameters = self._evaluate.statistics | self._evaluate.tied.keys()
            self._products = landscape.products(self._start, list(self._points.values()), no_parameters)
        return self._products

    def distances(self) -> pa.Table:
        names, apart = [START, *self._points], landscape.distances(self.inner())
        kinds = ["start", *("candidate" for _ in self._candidates)]
        kinds += ["combination"] * (len(names) - len(kinds))
        pairs = [(i, j) for i in range(len(names)) for j in range(len(names))]
        return pa.table(
            {
                "first": [names[i] for i, _ in pairs],
                "second": [names[j] for _, j in pairs],
                "first_kind": [kinds[i] for i, _ in pairs],
                "distance": [float(apart[i, j]) for i, j in pairs],
            }
        )

    def check(self) -> pa.Table:
        places = np.linspace(0, len(self._candidates) - 1, min(CHECKED, len(self._candidates)))
        names = [self._candidates[place] for place in places.round().astype(int)]
        found = [
            {"first": a, "second": b, **self._evaluate.gap(self._points[a], self._points[b])}
            for a, b in combinations(names, 2)
        ]
        schema = pa.schema(
            [("first", pa.string()), ("second", pa.string())]
            + [(name, pa.float64()) for name in ("predicted", "measured", "curvature", "variance")]
        )
        table = pa.Table.from_pylist(found, schema=schema)
        return table if found else _noting(table, "there is one candidate, and a soup takes two")

    def plane(self) -> pa.Table:
        names = list(self._points)
        plane = landscape.plane_through(self.inner(), len(self._candidates))
        if plane is None:
            table = pa.Table.from_pylist([], schema=_PLANE)
            return _noting(table, "no two candidates make a plane with the start")
        places = {START: (0.0, 0.0, 0.0)}
        kinds = {START: "start"}
        for index in (plane.first, plane.second):
            places[names[index]], kinds[names[index]] = plane.place(self.inner(), index), "candidate"
        if self._asked.soup is not None:
            place = plane.place(self.inner(), names.index(self._asked.soup))
            places[self._asked.soup], kinds[self._asked.soup] = place, "soup"
        first, second = self._points[names[plane.first]], self._points[names[plane.second]]

        def loss(x: float, y: float) -> float:
            shares, fixed = plane.shares(x, y), self._evaluate.statistics
            at = landscape.on_plane(self._start, first, second, shares, fixed)
            return landscape.loss_at(self._evaluate, at, self._labels)

        rows: list[dict[str, Any]] = []
        for name, (x, y, off) in places.items():
            own = self._start if name == START else self._points[name]
            own_loss = landscape.loss_at(self._evaluate, own, self._labels, as_they_are=True)
            row = {"kind": kinds[name], "name": name, "x": x, "y": y, "off": off}
            rows.append({**row, "loss": loss(x, y), "own_loss": own_loss})
        for x, y in landscape.grid([(x, y) for x, y, _ in places.values()]).tolist():
            rows.append({"kind": "grid", "name": None, "x": x, "y": y, "off": 0.0, "loss": loss(x, y)})
        return pa.Table.from_pylist(rows, schema=_PLANE)


_PLANE = pa.schema(
    [("kind", pa.string()), ("name", pa.string())]
    # own_loss: of the weights as they stand, with their own statistics; a soup is off the plane, too.
    + [(name, pa.float64()) for name in ("x", "y", "off", "loss", "own_loss")]
)


def _noting(table: pa.Table, note: str) -> pa.Table:
    return table.replace_schema_metadata({"note": note})


def _keep(path: Path, key: str, make: Callable[[], pa.Table]) -> None:
    if path.exists() and (pq.read_schema(path).metadata or {}).get(b"key") == key.encode():
        return
    # Should it fail, what is there is of other weights.
    path.unlink(missing_ok=True)
    table = make()
    write_table(path, table.replace_schema_metadata({**(table.schema.metadata or {}), "key": key}))


def write_table(path: Path, table: pa.Table) -> None:
    """Write Parquet, whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)
