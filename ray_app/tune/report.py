"""A tune run's page: the soups, the trials, what mattered, the weights, what was exported.

The bundle and the leaderboard are there before a report is begun. A part of it that fails says so in its
place, and the others are shown.
"""

from collections.abc import Callable
from pathlib import Path

from ray_app.progress import Reporter, Silent
from ray_app.report import plots
from ray_app.report.page import Section, Table, write_page
from ray_app.tune import report_trials, report_weights
from ray_app.tune.combine import SINGLE, Result
from ray_app.tune.geometry import measure, write_table
from ray_app.tune.importance import importance
from ray_app.tune.ledger import Ledger
from ray_app.tune.run import TuneRun
from ray_app.tune.store import read_json


def write_report(run: TuneRun, reporter: Reporter | None = None) -> Path:
    """Measure what a report says, and write `report.html` and its tables into the run's folder.

    Ray is connected. What was measured before is not measured again.
    """
    reporter = reporter or Silent()
    record = read_json(run.folder / "run.json")
    manifest = run.bundle.manifest
    single = next(result for result in run.results if result.name == SINGLE)
    spec = record["spec"]
    count = len(run.chosen.ingredients)
    lead = (
        f"{run.leaderboard.num_rows} trials of {spec['model'].get('model', spec['model']['name'])} on "
        f"{spec['dataset']}. The bundle is {run.chosen.name}, made of {count} "
        f"candidate{'s' * (count != 1)}: test accuracy {run.chosen.test_accuracy:.4f}, "
        f"the best single candidate {single.test_accuracy:.4f}."
    )
    with reporter.work("report", 3) as work:
        problems = _problems({"settings": lambda: _judge(run), "weights": lambda: measure(run)}, reporter)
        work.advance(2)
        shown = sections(run, problems, reporter)
        work.advance(1)
    return write_page(
        run.folder / "report.html",
        f"Sweep: {record['spec']['name']}",
        lead,
        shown,
        {
            "dataset fingerprint": record["fingerprint"],
            "bundle version": run.bundle.version,
            "spec": record["spec"],
            "versions": manifest.versions,
        },
        f"ray-app tune tune/{record['spec']['name']}.yaml",
    )


def sections(
    run: TuneRun, problems: dict[str, str] | None = None, reporter: Reporter | None = None
) -> list[Section]:
    """Return what a report says of a sweep; the demo's page has them too.

    It reads the tables that `write_report` has left in the run's folder, and needs no Ray.

    Args:
        run: A finished one.
        problems: What could not be measured, and why.
        reporter: Is told of sections that cannot be drawn.
    """
    spec, problems = run.spec, problems or {}
    metric = spec.sweep.metric
    trials = Ledger(run.folder / "trials").trials()
    parts: dict[str, Callable[[], Section]] = {
        "Soups and ensembles": lambda: _combinations(run.results, run.chosen.name, metric),
        "What was tried": lambda: report_trials.tried(spec.sweep, trials),
        "What mattered": lambda: report_trials.mattered(run.folder, spec.sweep, problems.get("settings")),
        "The weights": lambda: report_weights.weights(run.folder, spec.report, problems.get("weights")),
        "Trials": lambda: report_trials.leaderboard(run.leaderboard, metric),
        "Bundle": lambda: _bundle(run),
    }
    return [_drawn(title, part, reporter or Silent()) for title, part in parts.items()]


def _judge(run: TuneRun) -> None:
    path, trials = run.folder / report_trials.IMPORTANCE, Ledger(run.folder / "trials").trials()
    path.unlink(missing_ok=True)
    write_table(path, importance(run.spec.sweep, trials))


def _problems(parts: dict[str, Callable[[], None]], reporter: Reporter) -> dict[str, str]:
    """Do each; return the errors of those that fail, and tell them."""
    found = {}
    for name, part in parts.items():
        try:
            part()
        except Exception as error:  # noqa: BLE001  # whatever it is, the run is whole and its report is due
            found[name] = _line(error)
            reporter.say(f"  report: {name} could not be measured: {found[name]}")
    return found


def _drawn(title: str, part: Callable[[], Section], reporter: Reporter) -> Section:
    """The section, or one that says why there is none."""
    try:
        section = part()
        for _, figure in section.figures:
            # What cannot be drawn fails here, and not when the whole page is written.
            figure.draw_without_rendering()
    except Exception as error:  # noqa: BLE001  # likewise
        reporter.say(f"  report: {title} could not be drawn: {_line(error)}")
        return Section(title, f"Could not be drawn: {_line(error)}")
    return section


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _combinations(results: list[Result], chosen: str, metric: str) -> Section:
    sign = -1 if metric == "nll" else 1
    single = next(result for result in results if result.name == SINGLE)
    section = Section(
        "Soups and ensembles",
        "Ingredients join best first; a hollow circle was tried and left out. Chosen on validation rows; "
        "test rows are only reported on.",
    )
    section.figures.append(
        (
            f"{metric} of each combination, the best single candidate first: bars on validation rows, dots "
            f"on test rows. {'Lower' if metric == 'nll' else 'Higher'} is better; the dark bar was exported.",
            plots.bars(
                {one.name: sign * one.value for one in results},
                metric,
                marks={one.name: _on_test(one, metric) for one in results},
                mark_label="test",
                highlight=chosen,
            ),
        )
    )
    section.figures += [
        (
            f"{result.name}: {metric} on validation rows with each ingredient added"
            + ("; it was worse than the best candidate, and gave way to it" * result.gave_way),
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
        [
            one.name,
            len(one.files),
            sign * one.value,
            sign * (one.value - single.value),
            one.test_accuracy,
            one.test_accuracy - single.test_accuracy,
            one.test_nll,
            one.test_nll - single.test_nll,
            " ".join(one.ingredients),
        ]
        for one in results
    ]
    columns = [
        "model",
        "members to serve",
        f"validation {metric}",
        "against single",
        "test accuracy",
        "against single",
        "test NLL",
        "against single",
        "ingredients",
    ]
    section.tables.append(Table(columns, rows, highlight=[result.name for result in results].index(chosen)))
    return section


def _on_test(result: Result, metric: str) -> float:
    return result.test_nll if metric == "nll" else result.test_accuracy


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


__all__ = ["sections", "write_report"]
