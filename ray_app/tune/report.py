"""A tune run's page: the leaderboard, the curves, how each soup grew, what was exported."""

import math
from pathlib import Path

from ray_app.report import plots
from ray_app.report.page import Section, Table, write_page
from ray_app.tune.combine import SINGLE, Result
from ray_app.tune.ledger import Ledger, Trial
from ray_app.tune.run import TuneRun
from ray_app.tune.store import read_json


def write_report(run: TuneRun) -> Path:
    """Write `report.html` into the run's folder."""
    record = read_json(run.folder / "run.json")
    manifest = run.bundle.manifest
    single = next(result for result in run.results if result.name == SINGLE)
    spec = record["spec"]
    lead = (
        f"{run.leaderboard.num_rows} trials of {spec['model'].get('model', spec['model']['name'])} on "
        f"{spec['dataset']}. The bundle is {run.chosen.name}, made of {len(run.chosen.ingredients)} "
        f"candidates: test accuracy {run.chosen.test_accuracy:.4f}, "
        f"the best single candidate {single.test_accuracy:.4f}."
    )
    return write_page(
        run.folder / "report.html",
        f"Sweep: {record['spec']['name']}",
        lead,
        sections(run),
        {
            "dataset fingerprint": record["fingerprint"],
            "bundle version": run.bundle.version,
            "spec": record["spec"],
            "versions": manifest.versions,
        },
        f"ray-app tune tune/{record['spec']['name']}.yaml",
    )


def sections(run: TuneRun) -> list[Section]:
    """Return what a report says of a sweep; the demo's page has them too."""
    metric = read_json(run.folder / "run.json")["spec"]["sweep"]["metric"]
    trials = Ledger(run.folder / "trials").trials()
    return [
        _combinations(run.results, run.chosen.name, metric),
        _leaderboard(run, trials, metric),
        _bundle(run),
    ]


def _combinations(results: list[Result], chosen: str, metric: str) -> Section:
    sign = -1 if metric == "nll" else 1
    single = next(result for result in results if result.name == SINGLE)
    section = Section(
        "Soups and ensembles",
        "Ingredients join best first; a hollow circle was tried and left out. Chosen on validation rows; "
        "test rows are only reported on.",
    )
    section.figures += [
        (
            f"{result.name}: {metric} on validation rows with each ingredient added",
            plots.steps(
                [(step.ingredient, sign * step.value, step.kept) for step in result.history],
                metric,
                sign * single.value,
                "best single candidate",
            ),
        )
        for result in results
        if len(result.history) > 1
    ]
    rows = [
        [r.name, len(r.files), sign * r.value, r.test_accuracy, r.test_nll, " ".join(r.ingredients)]
        for r in results
    ]
    columns = [
        "model",
        "members to serve",
        f"validation {metric}",
        "test accuracy",
        "test NLL",
        "ingredients",
    ]
    section.tables.append(Table(columns, rows, highlight=[result.name for result in results].index(chosen)))
    return section


def _leaderboard(run: TuneRun, trials: list[Trial], metric: str) -> Section:
    table = run.leaderboard.to_pydict()
    settings = [name for name in table if name.startswith("config/")]
    section = Section("Trials", "Every trial, best first, with what it changed over the spec's defaults.")
    finished = {
        name: value
        for name, value, status in zip(table["trial"], table[metric], table["status"], strict=True)
        if status == "finished" and math.isfinite(value)
    }
    section.figures.append(
        (f"{metric} on validation rows", plots.bars(dict(list(finished.items())[:24]), metric))
    )
    curves = {
        t.name: ([e["epoch"] for e in t.curve], [e[metric] for e in t.curve]) for t in trials if t.curve
    }
    section.figures.append(
        (f"{metric} on validation rows after each epoch", plots.lines(curves, "epoch", metric))
    )
    columns = ["trial", "status", "epochs", "accuracy", "nll", *settings, "error"]
    rows = [[table[column][index] for column in columns] for index in range(run.leaderboard.num_rows)]
    section.tables.append(Table([column.removeprefix("config/") for column in columns], rows))
    return section


def _bundle(run: TuneRun) -> Section:
    manifest = run.bundle.manifest
    heads = [
        [name, part.method.name, *(part.metrics.get(m) for m in ("accuracy", "nll", "ece"))]
        for name, part in manifest.heads.items()
    ]
    detectors = [
        [
            name,
            part.method.name,
            part.threshold.value if part.threshold else None,
            part.threshold.tpr if part.threshold else None,
        ]
        for name, part in manifest.detectors.items()
    ]
    section = Section(
        "Bundle", f"{run.bundle.path.name}, version {run.bundle.version}; answers with {manifest.answer}."
    )
    if heads:
        section.tables.append(Table(["head", "method", "test accuracy", "test NLL", "test ECE"], heads))
    if detectors:
        section.tables.append(
            Table(["detector", "method", "threshold", "share of normal rows let through"], detectors)
        )
    return section
