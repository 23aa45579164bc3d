"""A build's page: what came out, where the time went, how the encoder was run, what selectors left."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray_app.data.accounts import Accounts
from ray_app.data.build import BuildResult
from ray_app.data.calibration import FILE as CALIBRATION
from ray_app.data.stats import Column, summarize
from ray_app.data.stats import sections as columns_sections
from ray_app.report import plots
from ray_app.report.page import Section, Table, write_page
from ray_app.spec.dataset import DatasetSpec
from ray_app.storage import Place


def write_report(result: BuildResult, spec: DatasetSpec) -> Place:
    """Write `report.html` into the build's folder; return where it is.

    Raises:
        DataError: It cannot be written.
    """
    sections = [*_run(result), *_selected(result)]
    columns = summarize(result.folder)
    sections += columns_sections(columns)
    page = result.folder / "report.html"
    with TemporaryDirectory() as folder:
        file = write_page(
            Path(folder) / "report.html",
            f"Dataset: {result.name}",
            _lead(result, columns),
            sections,
            {
                "fingerprint": result.fingerprint,
                "spec": spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
            },
            f"ray-app data build datasets/{result.name}.yaml",
        )
        page.write_bytes(file.read_bytes())
    return page


def summary(accounts: Accounts) -> list[list[str]]:
    """Return what a run took as names and values, for people."""
    rows = [
        ["rows/s, steady", f"{accounts.rows_per_s:,.1f}"],
        ["seconds to the first row", f"{accounts.seconds_to_first_row:.1f}"],
        ["bottleneck", accounts.bottleneck or "none"],
    ]
    if accounts.tokens_per_s is not None:
        rows.append(["tokens/s, steady", f"{accounts.tokens_per_s:,.0f}"])
    if accounts.padding_share is not None:
        rows.append(["padding, share of what the model read", f"{accounts.padding_share:.1%}"])
    if accounts.busy_share is not None:
        rows.append(["model's processes busy", f"{accounts.busy_share:.0%} of {accounts.actors}"])
    if accounts.spent.get("cached"):
        rows.append(["rows found in the cache", f"{accounts.spent['cached']:,.0f}"])
    if accounts.spent.get("halved"):
        rows.append(["batches halved for want of memory", f"{accounts.spent['halved']:,.0f}"])
    rows.append(["spilled to disk", f"{accounts.spilled_bytes / 2**20:,.1f} MiB"])
    if accounts.price is not None:
        rows.append(["price of a million rows", f"{accounts.price:,.2f}"])
    return rows


def _lead(result: BuildResult, columns: list[Column]) -> str:
    rejected = f" {result.rejected:,} rows were rejected." if result.rejected else " No row was rejected."
    return f"{result.rows:,} rows in {len(columns)} columns, from {result.units:,} units of input.{rejected}"


def _run(result: BuildResult) -> list[Section]:
    accounts = result.accounts
    if accounts is None:
        return []
    section = Section(
        "The run",
        f"{accounts.units:,} units in {accounts.seconds:,.1f} s"
        + (f"; {result.resumed:,} units were there already." if result.resumed else "."),
    )
    if accounts.stages:
        section.figures.append(
            ("Where the time went, all processes together", plots.bars(dict(accounts.stages), "seconds"))
        )
    if accounts.seconds_to_first_row > 1:
        until = plots.bars(dict(accounts.until_first_row), "seconds")
        section.figures.append((f"Until the first row: {accounts.seconds_to_first_row:.1f} s", until))
    if len(accounts.timeline) > 1:
        x, y = zip(*accounts.timeline, strict=True)
        section.figures.append(
            ("Rows that were finished", plots.lines({"rows": (x, y)}, "seconds since the start", "rows"))
        )
    section.tables.append(Table(["", ""], summary(accounts)))
    return [section, *_calibration(result.folder)]


def _calibration(folder: Place) -> list[Section]:
    if not (folder / CALIBRATION).exists():
        return []
    said: dict[str, Any] = json.loads((folder / CALIBRATION).read_bytes())
    rows = [
        [
            trial["settings"]["dtype"],
            trial["settings"]["batch_size"],
            trial["settings"]["batch_tokens"],
            trial["rows_per_s"],
            "" if trial["cosine"] is None else f"{trial['cosine']:.6f}",
        ]
        for trial in said["trials"]
    ]
    chosen = next(i for i, trial in enumerate(said["trials"]) if trial["settings"] == said["chosen"])
    text = (
        "Tried on a few of the first rows by the first process; all used what it chose. Where the spec leaves"
        f" the dtype open, bfloat16 is taken if it is faster and no row's cosine with float32 is below"
        f" {said['least_cosine']:g}."
    )
    names = ["dtype", "rows at most", "tokens at most", "rows/s", "least cosine with float32"]
    return [Section("How the encoder was run", text, tables=[Table(names, rows, highlight=chosen)])]


def _selected(result: BuildResult) -> list[Section]:
    if not result.chosen:
        return []
    rows = [
        [one.name, one.rows_before, one.rows_after, one.rows_after / max(1, one.rows_before)]
        for one in result.chosen
    ]
    return [Section("Selection", tables=[Table(["selector", "rows before", "rows after", "share"], rows)])]


__all__ = ["summary", "write_report"]
