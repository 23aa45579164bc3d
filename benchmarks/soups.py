"""What soups are worth on test rows and on worse ones: `python -m benchmarks.soups [--quick]`.

The sweep of `tune/cifar10.yaml` runs for each seed, which draws everything anew, as in benchmarks.evaluate.
The best single candidate, and each combination, then answer the rows of `datasets/suites/cifar10.yaml` that
have classes: as they are, and made worse. Needs the public reference data; a seed takes some minutes.

    <combination>_minus_single_<dataset>     difference of accuracies, seed by seed; the mean

The single candidate is the best on validation rows, which combinations were chosen on, too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks._pairs import aligned, arguments, mean_cell
from benchmarks.evaluate import Plan, each_seed, seeded
from ray_app import registry
from ray_app.data.dataset import open_dataset
from ray_app.methods.encoders import Encoder
from ray_app.papers._rows import rows_of
from ray_app.progress import Reporter
from ray_app.spec import read_yaml
from ray_app.spec.suite import Entry
from ray_app.tune.combine import SINGLE, OnRows
from ray_app.tune.run import TuneRun, run
from ray_app.tune.start import build_model
from ray_app.tune.store import open_state

CIFAR = Plan(
    sweep=read_yaml(Path("tune/cifar10.yaml")), suite=read_yaml(Path("datasets/suites/cifar10.yaml"))
)
KNOWN = ("ind", "corrupted")
"""Roles whose rows have classes."""


def measured(plan: Plan, seed: int, folder: Path, reporter: Reporter) -> dict[str, dict[str, float]]:
    """Return combination → dataset → accuracy of one seed; Ray is connected already."""
    sweep, suite = seeded(plan, seed, folder)
    swept = run(sweep, folder / "sweep", reporter)
    encoder = build_model(sweep.model, len(open_dataset(sweep.dataset).labels))
    entries = {name: entry for name, entry in suite.datasets.items() if entry.role in KNOWN}
    found: dict[str, dict[str, float]] = {result.name: {} for result in swept.results}
    with reporter.work("measure", len(entries)) as work:
        for name, entry in entries.items():
            for combination, value in _accuracies(swept, encoder, entry).items():
                found[combination][name] = value
            work.advance(1, name)
    return found


def _accuracies(swept: TuneRun, encoder: Encoder, entry: Entry) -> dict[str, float]:
    batch = open_dataset(entry.dataset).read(entry.split or "test", limit=entry.limit)
    for method in entry.transforms:
        batch = registry.build("transforms", method.name, method.options)(batch)
    rows = rows_of(encoder, batch)
    evaluate = OnRows(encoder, rows, rows, "accuracy")
    return {
        result.name: evaluate([open_state(file) for file in result.files], result.rule)
        for result in swept.results
    }


def summarised(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Return the metrics for machines."""
    names = [name for name in seeds[0] if name != SINGLE]
    return {
        f"{name}_minus_{SINGLE}_{dataset}": round(
            float(np.mean([one[name][dataset] - one[SINGLE][dataset] for one in seeds])), 4
        )
        for name in names
        for dataset in seeds[0][name]
    } | {"seeds": float(len(seeds))}


def table(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """Return what people read: means over seeds with standard errors, and of the differences to single."""
    datasets = list(seeds[0][SINGLE])
    rows = [
        [name, *(mean_cell([one[name][dataset] for one in seeds]) for dataset in datasets)]
        for name in seeds[0]
    ]
    rows += [
        [
            f"{name} - {SINGLE}",
            *(
                mean_cell([one[name][dataset] - one[SINGLE][dataset] for one in seeds])
                for dataset in datasets
            ),
        ]
        for name in seeds[0]
        if name != SINGLE
    ]
    return aligned(["accuracy", *datasets], rows)


def main(argv: Sequence[str] | None = None, plan: Plan = CIFAR) -> None:
    """Measure and print."""
    if arguments(__doc__, argv):
        plan = replace(plan, seeds=plan.seeds[:1])
    found = each_seed(plan, measured)
    print(table(found))
    print(json.dumps(summarised(found)))


if __name__ == "__main__":
    main()
