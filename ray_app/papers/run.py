"""Reproduces papers side by side as Ray tasks; writes a table and a page. A failed claim is shown as such."""

import importlib
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from ray_app.errors import RunError
from ray_app.papers import Outcome, Scale, check_slug, described, slugs
from ray_app.progress import Reporter
from ray_app.report.page import Section, Table, write_page
from ray_app.session import fetch, submit

REFERENCE = "RAY_APP_REFERENCE_DATA"


@dataclass(frozen=True)
class Reproduction:
    """What became of the claims of some papers."""

    folder: Path
    scale: Scale
    outcomes: dict[str, list[Outcome]]
    errors: dict[str, str]
    """Paper → why it did not run to its end."""

    @property
    def report(self) -> Path:
        """The HTML file."""
        return self.folder / "report.html"

    def records(self) -> list[dict[str, Any]]:
        """Return a mapping an outcome, for machines."""
        return [
            {
                "paper": slug,
                "claim": outcome.claim,
                "scale": self.scale,
                "value": outcome.value,
                "baseline": outcome.baseline,
                "interval": list(outcome.interval),
                "seeds": list(outcome.seeds),
                "held": outcome.held,
                "details": dict(outcome.details),
            }
            for slug, outcomes in self.outcomes.items()
            for outcome in outcomes
        ]

    def summary(self) -> tuple[list[str], list[list[str]]]:
        """Return columns and rows of the table that a terminal shows."""
        rows = [
            [
                record["paper"],
                record["claim"],
                "held" if record["held"] else "NOT HELD",
                f"{record['value']:.4f}",
                "-" if record["baseline"] is None else f"{record['baseline']:.4f}",
                f"{record['interval'][0]:.4f} .. {record['interval'][1]:.4f}",
                str(len(record["seeds"])),
            ]
            for record in self.records()
        ]
        rows += [[slug, "-", "ERROR", error, "", "", ""] for slug, error in self.errors.items()]
        return ["paper", "claim", "verdict", "value", "baseline", "95 % interval of the lead", "seeds"], rows


def reproduce(wanted: Sequence[str], *, scale: Scale, folder: Path, reporter: Reporter) -> Reproduction:
    """Test the claims of papers; Ray is connected already.

    Args:
        wanted: Slugs; empty: all papers.
        scale: How large.
        folder: Where the table and the page go.
        reporter: Where progress goes.

    Raises:
        SpecError: An unknown paper.
        RunError: The reference data are not there, or no paper ran to its end.
    """
    for slug in wanted:
        check_slug(slug)
    if scale == "reference":
        reference_folder()
    chosen = list(dict.fromkeys(wanted)) or slugs()
    outcomes: dict[str, list[Outcome]] = {}
    errors: dict[str, str] = {}
    with reporter.work(f"reproduce ({scale})", len(chosen)) as work:
        waiting = {submit(_run_one, slug, scale, cpus=1): slug for slug in chosen}
        while waiting:
            done, _ = ray.wait(list(waiting))
            slug = waiting.pop(done[0])
            try:
                found = fetch(done[0])
            except RunError as error:
                found = str(error)
            if isinstance(found, str):
                errors[slug] = found
                work.advance(1, f"{slug}: {found}")
            else:
                outcomes[slug] = found
                work.advance(1, f"{slug}: {sum(o.held for o in found)} of {len(found)} claims held")
    ordered = {slug: outcomes[slug] for slug in chosen if slug in outcomes}
    result = Reproduction(folder.resolve(), scale, ordered, errors)
    if not outcomes:
        raise RunError(f"no paper ran to its end; the first error: {next(iter(errors.values()))}")
    _write(result)
    return result


def reference_folder() -> Path:
    """Return the folder of public reference data.

    Raises:
        RunError: It is not set or not there.
    """
    named = os.environ.get(REFERENCE, "")
    if not named or not Path(named).is_dir():
        raise RunError(
            f"{REFERENCE} is {named!r}; --scale reference needs it to name the folder of public data"
        )
    return Path(named)


def _run_one(slug: str, scale: Scale) -> list[Outcome] | str:
    try:
        module = importlib.import_module(f"ray_app.papers.{slug}")
        return cast(list[Outcome], module.reproduce(scale))
    except Exception as error:  # noqa: BLE001  # one paper's fault must not take the others with it
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"


def _write(result: Reproduction) -> None:
    result.folder.mkdir(parents=True, exist_ok=True)
    rows = [{**record, "details": str(record["details"])} for record in result.records()]
    temporary = result.folder / ".outcomes.parquet"
    pq.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd")
    temporary.replace(result.folder / "outcomes.parquet")
    papers = {paper["slug"]: paper for paper in described()}
    held = sum(record["held"] for record in result.records())
    columns, table = result.summary()
    sections = [Section("Verdicts", tables=[Table(columns, table)])]
    sections += [_section(papers[slug], outcomes) for slug, outcomes in result.outcomes.items()]
    write_page(
        result.report,
        f"Reproductions, {result.scale} scale",
        f"{held} of {len(rows)} claims of {len(result.outcomes)} papers held.",
        sections,
        {"scale": result.scale, "papers": ", ".join(result.outcomes)},
        f"ray-app reproduce {' '.join(result.outcomes)} --scale {result.scale}",
    )


def _section(paper: dict[str, Any], outcomes: list[Outcome]) -> Section:
    statements = {claim["name"]: claim["statement"] for claim in paper["claims"]}
    rows = [
        [
            o.claim,
            statements.get(o.claim, ""),
            o.held,
            o.value,
            o.baseline,
            f"{o.interval[0]:.4f} .. {o.interval[1]:.4f}",
        ]
        for o in outcomes
    ]
    details = [[o.claim, name, value] for o in outcomes for name, value in o.details.items()]
    tables = [Table(["claim", "what it says", "held", "value", "baseline", "95 % interval"], rows)]
    if details:
        tables.append(Table(["claim", "also measured", "value"], details))
    return Section(f"{paper['title']} ({paper['year']})", paper["url"], tables=tables)
