"""The benchmark of soups under shift: what it measures is what the run says, and differences are paired."""

import json

import pytest

from benchmarks.evaluate import Plan
from benchmarks.soups import main, summarised
from tests.tune.specs import TINY

SUITE = {
    "name": "small",
    "datasets": {
        "clean": {"role": "ind", "dataset": "datasets/digits.yaml", "split": "test"},
        "noise": {
            "role": "corrupted",
            "dataset": "datasets/digits.yaml",
            "split": "test",
            "transforms": [{"name": "gaussian_noise", "std": 0.3}],
        },
        "photos": {"role": "far_ood", "dataset": "datasets/photo_patches.yaml"},
    },
}
SWEEP = {**TINY, "stages": [], "sweep": {**TINY["sweep"], "trials": 2, "train": {"epochs": 2}}}


def test_differences_are_means_of_paired_differences() -> None:
    seeds = [{"single": {"noise": single}, "soup": {"noise": 0.9}} for single in (0.8, 0.7)]
    assert summarised(seeds) == {"soup_minus_single_noise": 0.15, "seeds": 2.0}


@pytest.mark.slow
def test_every_combination_answers_the_rows_that_have_classes(
    ray_session: None, tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import benchmarks.soups as module

    seen = []

    def remember(*args):
        seen.append(swept := original(*args))
        return swept

    original = module.run
    monkeypatch.setattr(module, "run", remember)
    main(["--quick"], Plan(sweep=SWEEP, suite=SUITE))
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    told = {result.name: result.test_accuracy for result in seen[0].results}
    assert numbers["seeds"] == 1
    assert numbers["greedy_soup_minus_single_clean"] == pytest.approx(
        told["greedy_soup"] - told["single"], abs=1e-4
    )
    assert "greedy_soup_minus_single_noise" in numbers
    assert not [name for name in numbers if "photos" in name]
