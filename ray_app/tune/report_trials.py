"""The parts of a run's page about its trials: settings, curves, importance, the leaderboard."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_app.report import plots
from ray_app.report.page import Section, Table
from ray_app.report.trial_plots import NAMED, Axis, Curve, curves, parallel
from ray_app.spec.space import LISTS, WHEN, order
from ray_app.spec.tune import Sweep
from ray_app.tune.importance import complete
from ray_app.tune.ledger import Trial

IMPORTANCE = "importance.parquet"
# Of so few trials, a forest's answer changes with a few of them.
_ROUGH = 30
_BARS = 24


def tried(sweep: Sweep, trials: Sequence[Trial]) -> Section:
    """Return each trial's settings, its curve, and why those that failed did."""
    states = {
        state: sum(trial.status == state for trial in trials) for state in ("finished", "stopped", "failed")
    }
    counted = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    section = Section("What was tried", f"{len(trials)} trials: {counted}.")
    better = "lower" if sweep.metric == "nll" else "higher"
    # One that was stopped has a value too: of its last epoch. What a failed one had says nothing.
    values = [math.nan if trial.status == "failed" else trial.last(sweep.metric) for trial in trials]
    values = [value if math.isfinite(value) else math.nan for value in values]
    axes = axes_of(sweep, trials)
    if axes:
        section.figures.append(
            (
                f"Every trial as a line: its settings, and at the right its {sweep.metric} on validation "
                f"rows after its last epoch ({better} is better). Dark lines are better, the thick one is "
                "the best; grey ones failed. Dots lead past an axis that a trial has no setting of.",
                parallel(
                    axes,
                    [trial.name for trial in trials],
                    values,
                    sweep.metric,
                    lower_is_better=sweep.metric == "nll",
                ),
            )
        )
    series = [
        Curve(t.name, [e["epoch"] for e in t.curve], [e[sweep.metric] for e in t.curve], t.status)
        for t in trials
    ]
    section.figures.append(
        (
            f"{sweep.metric} on validation rows after each epoch. The best {min(NAMED, states['finished'])} "
            "finished trials are named, best first; the others are grey. A dash ends a trial that was "
            "stopped early, a cross one that failed; what is far beyond the usual is cut off at the edge.",
            curves(series, "epoch", sweep.metric, lower_is_better=sweep.metric == "nll"),
        )
    )
    failed = [
        [t.name, len(t.curve), _settings(t.config), t.error or "-"] for t in trials if t.status == "failed"
    ]
    if failed:
        columns = ["failed trial", "epochs", "settings", "reason"]
        section.tables.append(Table(columns, failed, "Trials that failed, and why."))
    return section


def axes_of(sweep: Sweep, trials: Sequence[Trial]) -> list[Axis]:
    """Return an axis for each setting of the space, those that others wait for before these."""
    full = [complete(sweep, trial.config) for trial in trials]
    found = []
    for key in order(sweep.space):
        kind = next(kind for kind in sweep.space[key] if kind != WHEN)
        values = [config.get(key) for config in full]
        if all(key not in config for config in full):
            continue
        numbers = all(value is None or _is_number(value) for value in values)
        if kind in LISTS or not numbers:
            # `none` is a choice; a setting that is not there is a gap.
            values = [_said(config[key]) if key in config else None for config in full]
            found.append(Axis(key, "category", values))
        else:
            found.append(Axis(key, "log" if kind == "loguniform" else "linear", values))
    return found


def mattered(folder: Path, sweep: Sweep, problem: str | None) -> Section:
    """Return how much of the metric's variance each setting explains."""
    section = Section("What mattered")
    path = folder / IMPORTANCE
    if problem or not path.exists():
        section.text = f"Not measured: {problem}" if problem else "Not measured yet."
        return section
    table = pq.read_table(path)
    if not table.num_rows:
        section.text = f"Nothing to say: {table.schema.metadata[b'note'].decode()}."
        return section
    rows = table.to_pydict()
    most = max(rows["trials"])
    rough = " With so few trials this is a hint, no more." if most < _ROUGH else ""
    left = 1 - min(1.0, sum(rows["importance"]))
    rest = (
        "Settings with a condition are judged among the trials that have them."
        if min(rows["trials"]) < most
        else f"{left:.0%} is left to how settings act together."
    )
    section.text = (
        f"Functional ANOVA (Optuna) over {most} finished trials: the share of the variance of "
        f"{sweep.metric}, as a random forest learned it from them, that a setting explains by itself.{rough}"
    )
    section.figures.append(
        (
            f"Longer bars mattered more. {rest}",
            plots.bars(
                dict(zip(rows["setting"], rows["importance"], strict=True)),
                f"share of the variance of {sweep.metric}",
                from_zero=True,
            ),
        )
    )
    section.tables.append(
        Table(["setting", "share of variance", "trials"], list(zip(*rows.values(), strict=True)))
    )
    return section


def leaderboard(table: pa.Table, metric: str) -> Section:
    """Return every trial, best first."""
    rows = table.to_pydict()
    settings = [name for name in rows if name.startswith("config/")]
    section = Section("Trials", "Every trial, best first, with what it changed over the spec's defaults.")
    finished = {
        name: value
        for name, value, status in zip(rows["trial"], rows[metric], rows["status"], strict=True)
        if status == "finished" and math.isfinite(value)
    }
    of = f"the best {_BARS} of {len(finished)}" if len(finished) > _BARS else f"all {len(finished)}"
    section.figures.append(
        (
            f"{metric} on validation rows of {of} finished trials, best first",
            plots.bars(dict(list(finished.items())[:_BARS]), metric),
        )
    )
    columns = ["trial", "status", "epochs", "accuracy", "nll", *settings, "error"]
    shown = [[rows[column][index] for column in columns] for index in range(table.num_rows)]
    section.tables.append(Table([column.removeprefix("config/") for column in columns], shown))
    return section


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _said(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict) and "name" in value:
        # Two choices may be one method with different options.
        return " ".join([str(value["name"]), *(f"{k}={v}" for k, v in value.items() if k != "name")])
    return str(value)


def _settings(config: dict[str, Any]) -> str:
    said = (
        f"{key}={value:.4g}" if _is_number(value) else f"{key}={_said(value)}"
        for key, value in config.items()
    )
    return ", ".join(said) or "the defaults"
