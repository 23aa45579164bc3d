"""The benchmark of soups and detectors: every seed is a draw of its own, and differences are paired."""

import json
from pathlib import Path

import pytest

from benchmarks.evaluate import Plan, main, seeded, summarised, tables
from ray_app.data.dataset import open_dataset
from ray_app.spec import parse
from ray_app.spec.suite import SuiteSpec
from tests.tune.specs import TINY

SUITE = {
    "name": "small",
    "datasets": {
        "clean": {"role": "ind", "dataset": "datasets/digits.yaml", "split": "test", "limit": 60},
        "fgsm": {
            "role": "attacked",
            "dataset": "datasets/digits.yaml",
            "split": "test",
            "limit": 60,
            "transforms": [{"name": "fgsm", "eps": 0.1}],
        },
        "photos": {"role": "far_ood", "dataset": "datasets/photo_patches.yaml", "limit": 60},
    },
}
SWEEP = {**TINY, "stages": [], "sweep": {**TINY["sweep"], "trials": 2, "train": {"epochs": 1}}}


def test_every_seed_changes_the_splits_the_weights_the_order_and_the_search(tmp_path: Path) -> None:
    plan = Plan(sweep=TINY, suite=SUITE)
    (first, suite), (second, _) = (seeded(plan, seed, tmp_path / str(seed)) for seed in (0, 1))
    assert (second.model.options["seed"], second.sweep.seed, second.sweep.train.seed) == (1, 1, 1)
    assert [stage.train.seed for stage in second.stages] == [1]
    rows = [set(open_dataset(spec.dataset).read("test")["row_id"]) for spec in (first, second)]
    assert rows[0] != rows[1]
    assert rows[0] == set(open_dataset("datasets/digits.yaml").read("test")["row_id"])
    # The suite measures on the same test rows; other datasets stay as they are.
    assert suite.datasets["clean"].dataset == suite.datasets["fgsm"].dataset == first.dataset
    assert suite.datasets["photos"].dataset == "datasets/photo_patches.yaml"
    assert TINY["dataset"] == "datasets/digits.yaml"


def test_differences_are_means_of_paired_differences() -> None:
    seeds = [
        {
            "validation/single": 0.9,
            "validation/greedy_soup": 0.95,
            "test/single": 0.8,
            "test/greedy_soup": test,
            "accuracy/clean": test,
            "auroc/mahalanobis/fgsm": 0.9,
            "auroc/max_softmax/fgsm": attacked,
            "auroc/mahalanobis/photos": 1.0,
            "auroc/max_softmax/photos": 0.5,
            "ingredients/single": 1.0,
            "ingredients/greedy_soup": 3.0,
            "members/single": 1.0,
            "members/greedy_soup": 1.0,
        }
        for test, attacked in ((0.82, 0.6), (0.84, 0.4))
    ]
    numbers = summarised(seeds, parse(SUITE, SuiteSpec, "suite"))
    assert numbers == {
        "greedy_soup_minus_single_validation": 0.05,
        "greedy_soup_minus_single_test": 0.03,
        "accuracy_clean": 0.83,
        "mahalanobis_auroc_fgsm": 0.9,
        "mahalanobis_minus_max_softmax_fgsm": 0.4,
        "max_softmax_auroc_fgsm": 0.5,
        "mahalanobis_auroc_photos": 1.0,
        "max_softmax_auroc_photos": 0.5,
        "seeds": 2,
    }
    # The standard error of 0.82 and 0.84 is 0.01.
    assert "greedy_soup  0.9500 ± 0.0000  0.8300 ± 0.0100  3.0" in tables(seeds)
    assert "fgsm     -                -    0.9000 ± 0.0000    0.5000 ± 0.1000" in tables(seeds)


@pytest.mark.slow
def test_runs_the_sweep_and_the_suite_and_ends_with_json(
    ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--quick"], Plan(seeds=(0,), sweep=SWEEP, suite=SUITE))
    out = capsys.readouterr().out
    numbers = json.loads(out.splitlines()[-1])
    assert numbers["seeds"] == 1
    assert numbers["greedy_soup_minus_single_validation"] >= 0
    for metric in ("mahalanobis_auroc_photos", "mahalanobis_minus_max_softmax_fgsm", "accuracy_fgsm"):
        assert -1 <= numbers[metric] <= 1
    assert "one seed" in out
