"""The benchmark of soups on two candidates: every metric is there, and merges are right."""

import json
from pathlib import Path

import pytest

from benchmarks import tune
from benchmarks._merges import REFERENCES, errors
from benchmarks._tune_roles import make_candidates
from benchmarks.tune import Plan, main


@pytest.mark.slow
def test_a_role_says_what_it_took(tmp_path: Path) -> None:
    make_candidates(tmp_path, 2)
    took = tune.role("greedy", tmp_path, 2, 8)
    assert took.done == 2
    assert took.seconds > 0
    assert took.peak > 100e6  # torch alone is more


def test_reports_every_metric(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mergekit")
    # Each role's process imports torch for seconds: one is started above, here are made-up answers.
    peaks = {"still": 1000, "bare": 1010, "greedy": 1080, "naive": 1400}
    monkeypatch.setattr(tune, "make_candidates", lambda folder, n: 100)
    monkeypatch.setattr(
        tune, "role", lambda name, folder, n, rows: tune.Took(3.0 if name == "bare" else 3.3, peaks[name], n)
    )
    small = Plan(counts=(2,), rows=8, rounds=1, shapes=((16, 16),), merged=3, trial_s=0.3, trials=2)
    main(["--quick"], small)
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"greedy_soup_time_ratio", "greedy_soup_peak_models", "max_merge_error"} <= set(numbers)
    assert 0 < numbers["sweep_efficiency"] <= 1
    assert 0 < numbers["trial_overhead_s"] < 10
    assert numbers["max_merge_error"] < 1e-6
    assert numbers["mergekit_max_difference"] < 1e-5
    assert numbers["greedy_soup_peak_models"] == pytest.approx(1.8)
    assert numbers["naive_peak_models"] == pytest.approx(5)
    assert numbers["greedy_soup_time_ratio"] == pytest.approx(1.1)


def test_merges_are_within_a_millionth_of_the_naive_way() -> None:
    found = errors(5, 6)
    assert set(found) == set(REFERENCES)
    assert max(found.values()) < 1e-6
