"""An evaluation: bundle x dataset x seed as Ray tasks; what is there already is not done again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from ray_app import bundle as bundles
from ray_app.bundle import Bundle
from ray_app.data.dataset import open_dataset
from ray_app.errors import SpecError
from ray_app.evaluation.measure import Piece, measure, summarised
from ray_app.evaluation.predict import key_of, predict_dataset
from ray_app.progress import Reporter
from ray_app.session import check_resources, fetch, submit
from ray_app.spec.suite import SuiteSpec


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation."""

    folder: Path
    suite: SuiteSpec
    bundles: dict[str, Bundle]
    pieces: list[Piece]
    metrics: pa.Table
    """A row a bundle, dataset, seed, subject and metric."""
    means: pa.Table
    """The same, averaged over seeds, with standard errors."""

    @property
    def report(self) -> Path:
        """The HTML file."""
        return self.folder / "report.html"

    def records(self) -> list[dict[str, Any]]:
        """Return the means, a mapping each, for machines."""
        return self.means.to_pylist()

    def summary(self) -> tuple[list[str], list[list[str]]]:
        """Return columns and rows of the table for people: a row a bundle and dataset.

        Accuracy and ECE are the answer's; a detector's column is its AUROC.
        """
        metrics = ("accuracy", "ece")
        found = {(r["bundle"], r["dataset"], r["subject"], r["metric"]): r for r in self.records()}
        detectors = sorted({key[2] for key in found if key[2].startswith("detector/")})
        columns = [
            "bundle",
            "dataset",
            "role",
            *metrics,
            *(name.removeprefix("detector/") for name in detectors),
        ]
        rows = []
        for bundle in self.bundles:
            for dataset, entry in self.suite.datasets.items():
                cells = [found.get((bundle, dataset, "answer", metric)) for metric in metrics]
                cells += [found.get((bundle, dataset, detector, "auroc")) for detector in detectors]
                rows.append([bundle, dataset, entry.role, *map(_cell, cells)])
        return columns, rows


def evaluate(
    suite: SuiteSpec, paths: Sequence[Path], *, seeds: int, folder: Path, reporter: Reporter
) -> Evaluation:
    """Evaluate bundles on a suite; Ray is connected already.

    Args:
        suite: The datasets and their roles.
        paths: The bundles' folders.
        seeds: How often random transforms are drawn.
        folder: Where tables and the report go.
        reporter: Where progress goes.

    Raises:
        SpecError: Bundles of equal names, a dataset that is not there, or more resources than the cluster
        has. BundleError: A bundle that cannot be trusted.
    """
    # Imported here: matplotlib is slow to load, and a bad suite should be refused before it is.
    from ray_app.evaluation.report import write_report

    opened = _open(paths)
    datasets = {name: open_dataset(entry.dataset) for name, entry in suite.datasets.items()}
    for name, entry in suite.datasets.items():
        datasets[name].check_split(entry.split)
    check_resources(suite.num_cpus, suite.num_gpus, "num_cpus, num_gpus")
    folder = folder.resolve()
    jobs = [
        (name, dataset, seed)
        for name in opened
        for dataset, entry in suite.datasets.items()
        for seed in range(seeds)
        # Without a random part every seed gives the same.
        if seed == 0 or entry.transforms
    ]
    with reporter.work("evaluate", len(jobs)) as work:
        waiting: dict[Any, str] = {}
        for name, dataset, seed in jobs:
            entry = suite.datasets[dataset]
            to = _place(folder, name, dataset, seed)
            key = _key(suite, opened[name], dataset, datasets[dataset].fingerprint, seed)
            if key_of(to) == key:
                work.advance(1, f"{name} on {dataset} was there already")
                continue
            reference = submit(
                predict_dataset,
                opened[name].path.resolve(),
                datasets[dataset],
                entry,
                seed,
                batch_size=suite.batch_size,
                examples=suite.examples,
                cache=suite.cache,
                to=to,
                key=key,
                cpus=suite.num_cpus,
                gpus=suite.num_gpus,
            )
            waiting[reference] = f"{name} on {dataset}"
        while waiting:
            done, _ = ray.wait(list(waiting))
            fetch(done)
            for reference in done:
                work.advance(1, waiting.pop(reference))
    pieces = [_read(folder, suite, name, dataset, seed) for name, dataset, seed in jobs]
    pieces += _repeated(pieces, suite, opened, seeds)
    thresholds = {name: _thresholds(bundle) for name, bundle in opened.items()}
    metrics = measure(pieces, thresholds)
    result = Evaluation(folder, suite, opened, pieces, metrics, summarised(metrics))
    _write(result)
    write_report(result)
    return result


def _open(paths: Sequence[Path]) -> dict[str, Bundle]:
    opened: dict[str, Bundle] = {}
    for path in paths:
        bundle = bundles.load(path)
        if bundle.version in {other.version for other in opened.values()}:
            raise SpecError(f"--bundle {path}: the same bundle is given twice; give each once")
        name = bundle.manifest.name
        if name in opened:
            # Two runs of one spec: the version tells them apart.
            name = f"{name}@{bundle.version}"
        opened[name] = bundle
    return opened


def _thresholds(bundle: Bundle) -> dict[str, Any]:
    return {name: part.threshold for name, part in bundle.manifest.detectors.items() if part.threshold}


def _place(folder: Path, bundle: str, dataset: str, seed: int) -> Path:
    return folder / "rows" / bundle / f"{dataset}-{seed}.parquet"


def _key(suite: SuiteSpec, bundle: Bundle, dataset: str, fingerprint: str, seed: int) -> str:
    entry = suite.datasets[dataset].model_dump(mode="json")
    return json.dumps([bundle.version, fingerprint, entry, suite.examples, seed], sort_keys=True)


def _read(folder: Path, suite: SuiteSpec, bundle: str, dataset: str, seed: int) -> Piece:
    table = pq.read_table(_place(folder, bundle, dataset, seed))
    seconds = float(table.schema.metadata[b"seconds_per_row"])
    return Piece(bundle, dataset, suite.datasets[dataset].role, seed, table, seconds)


def _repeated(pieces: list[Piece], suite: SuiteSpec, opened: dict[str, Bundle], seeds: int) -> list[Piece]:
    """Return the in-distribution pieces for the seeds that need no run of their own, to compare with."""
    found = {(p.bundle, p.seed): p for p in pieces if p.dataset == suite.reference}
    return [
        Piece(name, suite.reference, "ind", seed, found[name, 0].table, found[name, 0].seconds_per_row)
        for name in opened
        for seed in range(1, seeds)
        if (name, seed) not in found
    ]


def _write(result: Evaluation) -> None:
    for name, table in (("metrics", result.metrics), ("means", result.means)):
        path = result.folder / f"{name}.parquet"
        temporary = path.with_name(f".{path.name}")
        pq.write_table(table, temporary, compression="zstd")
        temporary.replace(path)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{row['value']:.4f}" + (f" ± {row['error']:.4f}" if row["seeds"] > 1 and row["error"] else "")
