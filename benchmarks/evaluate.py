"""What soups and a bundle's detectors are worth on digits: `python -m benchmarks.evaluate [--quick]`.

Each seed draws everything anew: the splits of the digits, the network's first weights, the order of rows and
the augmentation in each stage and trial, and the search. The sweep of `tune/digits.yaml` runs, and the suite
`datasets/suites/digits.yaml` measures its bundle. Means over seeds stand with their standard errors.

    <combination>_minus_single_validation    metric on the rows that the combination was chosen on
    <combination>_minus_single_test          accuracy on rows that nobody chose on
    accuracy_<dataset>                       of the exported bundle, where rows have labels
    <detector>_auroc_<dataset>               against the clean test rows; 0.5 is chance, ties count half
    <detector>_minus_<baseline>_<dataset>    difference of two such areas on attacked rows, seed by seed

Peers are measured in the same run: the best single candidate, and the baseline detector.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from rich.console import Console

from benchmarks._pairs import aligned, arguments, mean_cell
from ray_app.evaluation.run import Evaluation, evaluate
from ray_app.progress import Reporter, Terminal
from ray_app.session import session
from ray_app.spec import parse, read_yaml
from ray_app.spec.suite import SuiteSpec
from ray_app.spec.tune import TuneSpec
from ray_app.tune.combine import SINGLE
from ray_app.tune.run import TuneRun, run

Measured = TypeVar("Measured")
BASELINE = "max_softmax"
"""The detector that the others must beat on attacked rows."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    seeds: Sequence[int] = (0, 1, 2)
    sweep: Mapping[str, Any] = field(default_factory=lambda: read_yaml(Path("tune/digits.yaml")))
    suite: Mapping[str, Any] = field(default_factory=lambda: read_yaml(Path("datasets/suites/digits.yaml")))


def seeded(plan: Plan, seed: int, folder: Path) -> tuple[TuneSpec, SuiteSpec]:
    """Return the specs with every seed in them changed, and datasets whose splits are drawn with it.

    Args:
        plan: What the files say.
        seed: Of everything.
        folder: Where the changed dataset's file is written.
    """
    sweep, suite = deepcopy(dict(plan.sweep)), deepcopy(dict(plan.suite))
    original = sweep["dataset"]
    changed = folder / "dataset.yaml"
    changed.parent.mkdir(parents=True, exist_ok=True)
    changed.write_text(yaml.safe_dump({**read_yaml(Path(original)), "seed": seed}), encoding="utf-8")
    sweep["dataset"] = str(changed)
    sweep["model"]["seed"] = seed
    for part in (*sweep.get("stages", []), sweep["sweep"]):
        part.setdefault("train", {})["seed"] = seed
    sweep["sweep"]["seed"] = seed
    for entry in suite["datasets"].values():
        if entry["dataset"] == original:
            entry["dataset"] = str(changed)
    return parse(sweep, TuneSpec, f"seed {seed}"), parse(suite, SuiteSpec, f"seed {seed}")


def each_seed(plan: Plan, measure: Callable[[Plan, int, Path, Reporter], Measured]) -> list[Measured]:
    """Return what is measured of each seed, on a local Ray, in folders that are gone afterwards."""
    # Apart from the figures: who reads those through a pipe still sees that something goes on.
    reporter = Terminal(Console(stderr=True))
    with tempfile.TemporaryDirectory(prefix="ray-app-") as folder, session():
        found = []
        for seed in plan.seeds:
            reporter.say(f"seed {seed}")
            found.append(measure(plan, seed, Path(folder) / str(seed), reporter))
    return found


def measured(plan: Plan, seed: int, folder: Path, reporter: Reporter) -> dict[str, float]:
    """Return the numbers of one seed; Ray is connected already."""
    sweep_spec, suite_spec = seeded(plan, seed, folder)
    swept = run(sweep_spec, folder / "sweep", reporter)
    evaluation = evaluate(
        suite_spec, [swept.bundle.path], seeds=1, folder=folder / "evaluation", reporter=reporter
    )
    return {**_of_sweep(swept), **_of_suite(evaluation)}


def _of_sweep(swept: TuneRun) -> dict[str, float]:
    found = {}
    for result in swept.results:
        found[f"validation/{result.name}"] = result.value
        found[f"test/{result.name}"] = result.test_accuracy
        found[f"members/{result.name}"] = float(len(result.files))
        found[f"ingredients/{result.name}"] = float(len(result.ingredients))
    return found


def _of_suite(evaluation: Evaluation) -> dict[str, float]:
    found = {}
    for row in evaluation.records():
        if row["subject"] == "answer" and row["metric"] in ("accuracy", "ece"):
            found[f"{row['metric']}/{row['dataset']}"] = row["value"]
        if row["subject"].startswith("detector/") and row["metric"] == "auroc":
            detector = row["subject"].removeprefix("detector/")
            found[f"auroc/{detector}/{row['dataset']}"] = row["value"]
    return found


def summarised(seeds: Sequence[Mapping[str, float]], suite: SuiteSpec) -> dict[str, float]:
    """Return the metrics for machines: means over seeds; differences are taken seed by seed."""
    columns = {name: np.array([one[name] for one in seeds]) for name in seeds[0]}
    attacked = [name for name, entry in suite.datasets.items() if entry.role == "attacked"]
    found: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        kind, _, rest = name.partition("/")
        if kind in ("validation", "test") and rest != SINGLE:
            found[f"{rest}_minus_{SINGLE}_{kind}"] = values - columns[f"{kind}/{SINGLE}"]
        if kind == "accuracy":
            found[f"accuracy_{rest}"] = values
        if kind == "auroc":
            detector, _, dataset = rest.partition("/")
            found[f"{detector}_auroc_{dataset}"] = values
            if dataset in attacked and detector != BASELINE and f"auroc/{BASELINE}/{dataset}" in columns:
                found[f"{detector}_minus_{BASELINE}_{dataset}"] = (
                    values - columns[f"auroc/{BASELINE}/{dataset}"]
                )
    return {name: round(float(values.mean()), 4) for name, values in found.items()} | {
        "seeds": float(len(seeds))
    }


def tables(seeds: Sequence[Mapping[str, float]]) -> str:
    """Return what people read: means over seeds, with standard errors where there are several."""
    columns = {name: [one[name] for one in seeds] for name in seeds[0]}

    def cell(name: str) -> str:
        return mean_cell(columns[name]) if name in columns else "-"

    def parts(kind: str, place: int = 1) -> list[str]:
        return list(dict.fromkeys(n.split("/")[place] for n in columns if n.startswith(f"{kind}/")))

    models = [
        [
            name,
            *(cell(f"{kind}/{name}") for kind in ("validation", "test")),
            *(f"{np.mean(columns[f'{kind}/{name}']):.1f}" for kind in ("ingredients", "members")),
        ]
        for name in parts("test")
    ]
    detectors = parts("auroc")
    datasets = dict.fromkeys([*parts("accuracy"), *parts("auroc", 2)])
    rows = [
        [
            dataset,
            *(cell(f"{kind}/{dataset}") for kind in ("accuracy", "ece")),
            *(cell(f"auroc/{detector}/{dataset}") for detector in detectors),
        ]
        for dataset in datasets
    ]
    return "\n".join(
        [
            f"{len(seeds)} seeds: mean ± standard error" if len(seeds) > 1 else "one seed",
            "",
            aligned(["model", "validation", "test accuracy", "ingredients", "members to serve"], models),
            "",
            aligned(["dataset", "accuracy", "ECE", *(f"AUROC {name}" for name in detectors)], rows),
        ]
    )


def main(argv: Sequence[str] | None = None, plan: Plan | None = None) -> None:
    """Measure and print."""
    quick = arguments(__doc__, argv)
    plan = plan or (Plan(seeds=(0,)) if quick else Plan())
    found = each_seed(plan, measured)
    print(tables(found))
    print(json.dumps(summarised(found, parse(plan.suite, SuiteSpec, "suite"))))


if __name__ == "__main__":
    main()
