"""Runs the demo: each engine on real images, one after the other, and one page about all of it."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as Terminals
from rich.text import Text

from ray_app.data.build import BuildResult, build
from ray_app.data.dataset import open_dataset
from ray_app.demo.requests import Exchange, exchanges
from ray_app.errors import SpecError
from ray_app.evaluation import report as evaluation_report
from ray_app.evaluation.run import Evaluation, evaluate
from ray_app.progress import Reporter, Terminal
from ray_app.report import plots
from ray_app.report.page import Section, Table, write_page
from ray_app.serve.run import serving
from ray_app.session import session
from ray_app.spec import load
from ray_app.spec.dataset import DatasetSpec
from ray_app.spec.suite import SuiteSpec
from ray_app.spec.tune import TuneSpec
from ray_app.tune import report as tune_report
from ray_app.tune.run import TuneRun, run

SWEEP = "tune/digits.yaml"
SUITE = "datasets/suites/digits.yaml"
SCORED = "datasets/digits_scored.yaml"
DIGITS = "datasets/digits.yaml"
PHOTOS = "datasets/photo_patches.yaml"
MARK = ".ray-app-demo"
"""A file that says a folder is a demo's, so that --fresh deletes nothing else."""


@dataclass(frozen=True)
class Demo:
    """What the demo made."""

    sweep: TuneRun
    scored: BuildResult
    evaluation: Evaluation
    exchanges: list[Exchange]
    seconds: float


def demo(folder: Path, *, port: int, fresh: bool, console: Console) -> Path:
    """Run everything and return the report.

    Args:
        folder: For all that it makes.
        port: Where it serves while it runs.
        fresh: Delete what an earlier demo made there; otherwise what is there is not done again.
        console: Where progress and tables go.

    Raises:
        SpecError: It does not run in the project's folder, or the folder to delete is not a demo's.
    """
    specs = load(SWEEP, TuneSpec), load(SUITE, SuiteSpec)
    _prepare(folder, fresh=fresh)
    reporter = Terminal(console)
    begun = time.monotonic()
    with session():
        _begin(console, "1. Sweep", "pre-train without labels, fine-tune in several ways, make soups")
        sweep = run(specs[0], folder / "sweep", reporter)
        tune_report.write_report(sweep, reporter)
        _show_soups(console, sweep)
        _begin(console, "2. Stream", "every digit through an actor pool, embedded and scored, into Parquet")
        scored = _stream(folder, sweep, reporter)
        reporter.say(f"  {scored}")
        _begin(console, "3. Evaluate", "clean, corrupted, attacked, never seen")
        evaluation = evaluate(
            specs[1], [sweep.bundle.path], seeds=1, folder=folder / "evaluation", reporter=reporter
        )
        reporter.say("  accuracy and ECE of the answer where rows have labels; AUROC of each detector")
        columns, rows = evaluation.summary()
        _show(console, columns[1:], [row[1:] for row in rows])
    # On a Ray of its own: where Serve ends and Ray goes on, Ray says so in the middle of our lines.
    _begin(console, "4. Serve", "the bundle behind HTTP, asked for real")
    answers = _serve(sweep, port, reporter)
    _show(
        console,
        ["request", "status", "ms", "answer"],
        [[e.request, str(e.status), f"{e.milliseconds:.0f}", e.answer] for e in answers],
    )
    made = Demo(sweep, scored, evaluation, answers, time.monotonic() - begun)
    report = _write_report(folder, made)
    _begin(console, "5. Report", f"{report} ({made.seconds:.0f} s in all)")
    return report


def _begin(console: Console, part: str, text: str) -> None:
    console.print(Text.assemble((part, "bold"), f": {text}"))


def _prepare(folder: Path, *, fresh: bool) -> None:
    mark = folder / MARK
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise SpecError(f"--out {folder}: is not empty and no demo's folder; give an empty or a new one")
    if fresh and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _stream(folder: Path, sweep: TuneRun, reporter: Reporter) -> BuildResult:
    spec = load(SCORED, DatasetSpec, {"bundle": str(sweep.bundle.path)})
    return build(spec, folder / "scored", reporter=reporter)


def _serve(sweep: TuneRun, port: int, reporter: Reporter) -> list[Exchange]:
    digits = open_dataset(DIGITS)
    digit, photo = digits.read("test", limit=1), open_dataset(PHOTOS).read(limit=1)
    truth = digits.labels[int(digit["label"][0])]
    with serving(sweep.bundle.path, port=port, say=lambda line: reporter.say(f"  {line}")) as url:
        reporter.say(f"  answering at {url}")
        return list(exchanges(url, np.asarray(digit["image"][0]), truth, np.asarray(photo["image"][0])))


def _show_soups(console: Console, sweep: TuneRun) -> None:
    rows = [
        [
            ("* " if result.name == sweep.chosen.name else "  ") + result.name,
            str(len(result.files)),
            f"{result.value:.4f}",
            f"{result.test_accuracy:.4f}",
        ]
        for result in sweep.results
    ]
    _show(console, ["model (* exported)", "members", "validation", "test accuracy"], rows)


def _show(console: Console, columns: list[str], rows: list[list[str]]) -> None:
    table = Terminals(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table, highlight=False)


def _write_report(folder: Path, made: Demo) -> Path:
    single = next(result for result in made.sweep.results if result.name == "single")
    chosen = made.sweep.chosen
    lead = (
        f"From unlabelled pre-training to a served bundle in {made.seconds:.0f} s: "
        f"{made.sweep.leaderboard.num_rows} fine-tuning trials became {chosen.name} of "
        f"{len(chosen.ingredients)} ingredients (test accuracy {chosen.test_accuracy:.4f}; the best single "
        f"candidate {single.test_accuracy:.4f}), with detectors that were calibrated on validation rows, "
        "measured on clean, corrupted, attacked and foreign images, and asked over HTTP."
    )
    requests = Table(
        ["request", "status", "ms", "answer"],
        [[e.request, e.status, round(e.milliseconds), e.answer] for e in made.exchanges],
    )
    return write_page(
        folder / "report.html",
        "ray-app demo: digits",
        lead,
        [
            *tune_report.sections(made.sweep),
            _scored(made.scored),
            *evaluation_report.sections(made.evaluation),
            Section(
                "Requests",
                "Sent to the bundle on local Ray Serve, good ones and bad ones.",
                tables=[requests],
            ),
        ],
        {
            "bundle version": made.sweep.bundle.version,
            "dataset fingerprint": made.sweep.bundle.manifest.lineage["fingerprint"],
            "scored rows": str(made.scored),
            "versions": made.sweep.bundle.manifest.versions,
        },
        "make demo",
    )


def _scored(scored: BuildResult) -> Section:
    rows = open_dataset(scored.folder).read()
    figures = [
        (name, plots.histograms({"all digits": np.asarray(rows[name], dtype=float)}, name))
        for name in rows
        if name.startswith("score_")
    ]
    text = f"{scored.rows:,} rows through a Ray Data actor pool into {scored.units} files, each row once."
    return Section("Streamed and scored", text, figures=figures)
