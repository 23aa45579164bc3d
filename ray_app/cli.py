"""The verbs. Each parses, calls one engine function, and prints; heavy imports wait for a verb."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_app import __version__
from ray_app.cli_keys import keys_app
from ray_app.errors import RayAppError, SpecError
from ray_app.terminal import console, line, print_table

if TYPE_CHECKING:
    from ray_app.progress import Reporter

app = typer.Typer(
    name="ray-app",
    help="Evaluate and serve pre-trained models on Ray: stream, score, sweep, soup, serve, report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(name="data", help="Read, derive and look at datasets.", no_args_is_help=True)
app.add_typer(data_app)
app.add_typer(keys_app)

MENDABLE = 2
"""Exit status when the user can mend it."""
INTERRUPTED = 130


class Scale(StrEnum):
    """How large a reproduction is."""

    quick = "quick"
    reference = "reference"
    full = "full"


Address = Annotated[
    str | None,
    typer.Option(
        "--address", help="Ray cluster to use; default: RAY_ADDRESS, else a local Ray.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for the results; default: runs/<name>.", show_default=False),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change a setting of the spec: sweep.trials=4. May be repeated.", show_default=False
    ),
]


def main() -> None:
    """Run the command line; an error that the user can mend is one line and status 2."""
    try:
        with _chatter_apart():
            # Typer turns an interruption and an early leave into a number that it returns.
            status = app(standalone_mode=False)
            if status == INTERRUPTED:
                raise KeyboardInterrupt
            if status:
                raise typer.Exit(status)
    except RayAppError as error:
        _fail(str(error))
    except typer.Exit as leaving:
        raise SystemExit(leaving.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted; run the same command again to go on\n")
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        # What lies on this machine's disk is the user's to mend, whichever engine met it first.
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}; give another path, or mend that one")
    except Exception as error:
        # Click's usage errors: its class moves between releases, its interface does not.
        if hasattr(error, "format_message"):
            _fail(f"{error.format_message()}; see ray-app --help")
        raise


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        line(__version__)
        raise typer.Exit


@app.command()
def methods(
    which: Annotated[str | None, typer.Argument(metavar="[FAMILY[/NAME]]", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List the methods, or describe one, from its docstring."""
    from ray_app import registry

    family, _, name = (which or "").partition("/")
    if name:
        described = registry.describe(family, name)
        if as_json:
            line(json.dumps({**vars(described), "options": dict(described.options)}))
            return
        line(f"{family}/{name}\n\n{described.doc}\n\nOptions:")
        for option, default in described.options.items():
            line(f"  {option} = {default}")
        return
    rows = [
        registry.describe(each, found)
        for each in ([family] if family else registry.FAMILIES)
        for found in registry.names(each)
    ]
    if as_json:
        line(json.dumps([{"family": row.family, "name": row.name, "summary": row.summary} for row in rows]))
        return
    print_table(["method", "what it gives"], [[f"{row.family}/{row.name}", row.summary] for row in rows])


@data_app.command("build")
def data_build(
    spec: Annotated[Path, typer.Argument(help="A dataset's YAML file.")],
    out: Annotated[
        str | None,
        typer.Option("--out", help="Folder, or URL in a store; default: runs/<name>.", show_default=False),
    ] = None,
    address: Address = None,
    settings: Settings = None,
    force: Annotated[
        bool, typer.Option("--force", help="Delete what an older spec built there first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Stream a dataset into Parquet: every row once, also when it is killed and run again."""
    from ray_app.data.build import build
    from ray_app.spec import load
    from ray_app.spec.dataset import DatasetSpec

    checked = load(spec, DatasetSpec, _overrides(settings))
    folder = out or str(Path("runs") / checked.name)
    # It connects to Ray itself, and only where there are rows enough.
    result = build(checked, folder, reporter=_reporter(quiet=as_json), force=force, address=address)
    report = None
    if result.accounts is not None:
        from ray_app.data.report import summary, write_report

        report = write_report(result, checked)
        if not as_json:
            print_table(["", ""], summary(result.accounts))
    if as_json:
        line(json.dumps(result.record()))
        return
    line(str(result) + (f"\nreport: {report}" if report is not None else ""))


Which = Annotated[str, typer.Argument(help="A dataset's YAML file, or the folder of a built one.")]


@data_app.command("show")
def data_show(
    spec: Which,
    rows: Annotated[int, typer.Option("--rows", min=1, max=1000, help="How many rows to print.")] = 5,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Also write them to a page, pictures included.", show_default=False),
    ] = None,
) -> None:
    """Print a dataset's columns, splits and first rows."""
    from ray_app.data.show import show, show_page

    line(show(spec, rows))
    if html is not None:
        line(f"page: {_relative(show_page(spec, html, rows))}")


@data_app.command("stats")
def data_stats(
    spec: Which,
    split: Annotated[str | None, typer.Option("--split", help="Only these rows.", show_default=False)] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Also write a page with histograms.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Summarize each column: counts, ranges, quantiles, frequent values; histograms of scores."""
    from ray_app.data.stats import records, stats_page, summarize, table

    columns = summarize(spec, split)
    if html is not None:
        stats_page(spec, columns, html)
    if as_json:
        line(json.dumps(records(columns)))
        return
    print_table(*table(columns))
    if html is not None:
        line(f"page: {_relative(html.absolute())}")


@data_app.command("diff")
def data_diff(
    a: Which,
    b: Which,
    as_json: Json = False,
) -> None:
    """Compare two datasets: rows that only one has, values that changed. Status 1 where they differ."""
    from ray_app.data.diff import diff

    difference = diff(a, b)
    line(json.dumps(difference.record()) if as_json else str(difference))
    if not difference.same:
        raise typer.Exit(1)


@app.command()
def tune(
    spec: Annotated[Path, typer.Argument(help="A sweep's YAML file.")],
    out: Out = None,
    address: Address = None,
    settings: Settings = None,
) -> None:
    """Sweep, make soups and ensembles, export the winner as a bundle. Run it again to go on after a kill."""
    from ray_app.spec import load
    from ray_app.spec.tune import TuneSpec

    checked = load(spec, TuneSpec, _overrides(settings))
    folder = out or Path("runs") / checked.name
    from ray_app.session import session
    from ray_app.tune.report import write_report
    from ray_app.tune.run import run

    with session(address):
        reporter = _reporter()
        result = run(checked, folder, reporter)
        report = write_report(result, reporter)
    print_table(
        ["model", "members", "validation", "test accuracy", "ingredients"],
        [
            [
                f"{row.name}{' *' if row.name == result.chosen.name else ''}",
                len(row.files),
                f"{row.value:.4f}",
                f"{row.test_accuracy:.4f}",
                " ".join(row.ingredients),
            ]
            for row in result.results
        ],
    )
    line(
        f"* exported: {_relative(result.bundle.path)} (version {result.bundle.version})\n"
        f"report: {_relative(report)}"
    )


@app.command()
def evaluate(
    suite: Annotated[Path, typer.Argument(help="A suite's YAML file.")],
    bundle: Annotated[list[Path], typer.Option("--bundle", "-b", help="A bundle; may be repeated.")],
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=100, help="How often random parts are drawn.")
    ] = 1,
    out: Out = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Measure bundles on a suite: accuracy, calibration, robustness, detection; write tables and a report."""
    from ray_app.evaluation.run import evaluate as run_evaluation
    from ray_app.session import session
    from ray_app.spec import load
    from ray_app.spec.suite import SuiteSpec

    checked = load(suite, SuiteSpec)
    with session(address):
        result = run_evaluation(
            checked,
            bundle,
            seeds=seeds,
            folder=out or Path("runs") / checked.name,
            reporter=_reporter(quiet=as_json),
        )
    if as_json:
        line(json.dumps(result.records()))
        return
    print_table(*result.summary())
    line(f"report: {_relative(result.report)}")


@app.command()
def serve(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    host: Annotated[
        str, typer.Option("--host", help="Address to bind; one that others can reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    settings: Settings = None,
    address: Address = None,
) -> None:
    """Serve a bundle over HTTP until interrupted. The bearer token is read from RAY_APP_TOKEN.

    What a serve config file says under `args` can be set: --set policy.action=reject.
    """
    from ray_app.serve.run import serve as run_server
    from ray_app.spec import parse, with_overrides
    from ray_app.spec.serve import ServeSpec

    written = with_overrides({"bundle": str(bundle)}, _overrides(settings), "ray-app serve")
    spec = parse(written, ServeSpec, "ray-app serve")
    run_server(bundle, spec, host=host, port=port, address=address, say=_reporter().say)


@app.command()
def papers(as_json: Json = False) -> None:
    """List the papers, their claims and the methods that came from them."""
    from ray_app.papers import described

    known = described()
    if as_json:
        line(json.dumps(known))
        return
    print_table(
        ["slug", "paper", "year", "claims", "methods"],
        [
            [row["slug"], row["title"], row["year"], len(row["claims"]), " ".join(row["methods"])]
            for row in known
        ],
    )


@app.command()
def reproduce(
    slugs: Annotated[list[str] | None, typer.Argument(metavar="[SLUG]...", show_default=False)] = None,
    scale: Annotated[
        Scale, typer.Option("--scale", help="quick: seconds; reference: minutes, public data.")
    ] = Scale.quick,
    out: Out = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Test papers' claims (of all, or those named) and write a report. One that fails is shown as such."""
    from ray_app.papers.run import reproduce as run_papers
    from ray_app.session import session

    with session(address):
        result = run_papers(
            slugs or [],
            scale=scale.value,
            folder=out or Path("runs") / "papers",
            reporter=_reporter(quiet=as_json),
        )
    if as_json:
        line(json.dumps(result.records()))
        return
    print_table(*result.summary())
    line(f"report: {_relative(result.report)}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything it makes.")] = Path("runs/demo"),
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Where it serves while it runs.")
    ] = 8000,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete what an earlier demo made there first.")
    ] = False,
) -> None:
    """Watch the whole of it on real images: pre-train, sweep, soup, detect, evaluate, serve, report."""
    from ray_app.demo.run import demo as run_demo

    run_demo(out, port=port, fresh=fresh, console=console())


def _overrides(settings: list[str] | None) -> dict[str, Any]:
    from ray_app.spec import plain

    changes = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise SpecError(f"--set {setting}: expected key=value, such as sweep.trials=4")
        changes[key] = plain(value, f"--set {setting}")
    return changes


def _reporter(*, quiet: bool = False) -> "Reporter":
    from ray_app.progress import Silent, Terminal

    return Silent() if quiet else Terminal(console())


@contextmanager
def _chatter_apart() -> Iterator[None]:
    """Send what libraries write to stderr into a file; it is kept where the command fails.

    Ray writes from C++ and from threads of its own, past every setting of Python's logging. All that is ours
    goes to stdout, or to stderr after this.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    # A new file of a name that nobody can foresee: others write to that folder too.
    file, name = tempfile.mkstemp(prefix=f"ray-app-{os.getpid()}-", suffix=".log")
    log = Path(name)
    os.dup2(file, 2)
    os.close(file)
    try:
        yield
        log.unlink(missing_ok=True)
    except typer.Exit as leaving:
        if leaving.exit_code == 0:
            log.unlink(missing_ok=True)
        raise
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
        if log.exists() and not log.stat().st_size:
            log.unlink()


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _fail(reason: str) -> None:
    sys.stderr.write(f"error: {' '.join(reason.split())}\n")
    raise SystemExit(MENDABLE)
