"""Who goes on from whom in a population, and with which settings: from records made by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.spec import parse
from ray_app.spec.train import settings as trained_with
from ray_app.spec.tune import Sweep
from ray_app.tune.ledger import Trial
from ray_app.tune.pbt import Population, decide, explore, settings_before
from ray_app.tune.plan import Part
from ray_app.tune.search import trial_name

SPACE = {
    "lr": {"loguniform": [1e-4, 1e-1]},
    "weight_decay": {"uniform": [0.0, 0.1]},
    "augment.randaugment": {"int": [0, 5]},
    "clip": {"choice": [None, 0.5, 1.0, 2.0]},
}
NUMBERS = ("lr", "weight_decay", "augment.randaugment")


def sweep(**content) -> Sweep:
    given = {
        "trials": 8,
        "scheduler": {"name": "pbt", "interval": 2},
        "train": {"epochs": 6},
        "space": SPACE,
        **content,
    }
    return parse(given, Sweep, "sweep")


def population(spec: Sweep, values: list[float], epochs: int) -> dict[str, Trial]:
    """Records of a population whose trials came to an epoch."""
    trials = {trial.name: trial for trial in Population(spec, 1.0).step({}).begin}
    for trial, value in zip(trials.values(), values, strict=True):
        trial.curve = [{"accuracy": value, "epoch": epoch} for epoch in range(1, epochs + 1)]
    return trials


def test_the_population_begins_with_the_defaults_and_draws() -> None:
    begin = Population(sweep(), 1.0).step({}).begin
    assert [trial.name for trial in begin] == [trial_name(index) for index in range(8)]
    assert begin[0].config == {}
    assert all(trial.config.keys() == SPACE.keys() for trial in begin[1:])
    assert all(t.lineage == [{"epoch": 0, "parent": None, "config": t.config}] for t in begin)


def test_it_waits_for_all_then_the_worst_go_on_from_the_best() -> None:
    spec = sweep()
    trials = population(spec, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 2)
    late = trials["00004"].curve.pop()
    assert Population(spec, 1.0).step(trials).train == [Part("00004", 2)]
    trials["00004"].curve.append(late)
    step = Population(spec, 1.0).step(trials)
    # A quarter of eight is two; of the worst two one is the defaults, which never copy.
    assert [copy.name for copy in step.copy] == ["00001"]
    assert step.copy[0].parent in ("00006", "00007")
    assert step.copy[0].epoch == 2
    # Where less is better, the others.
    assert {copy.name for copy in Population(spec, -1.0).step(trials).copy} == {"00006", "00007"}
    assert {copy.parent for copy in Population(spec, -1.0).step(trials).copy} <= {"00000", "00001"}


def test_a_decision_is_not_made_twice_and_later_ones_do_not_disturb_it() -> None:
    spec = sweep()
    trials = population(spec, [0.8, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.1], 2)
    first = {copy.name: copy for copy in Population(spec, 1.0).step(trials).copy}
    assert first.keys() == {"00001", "00007"}
    done = first["00001"]
    trials["00001"].config = done.config
    trials["00001"].lineage.append({"epoch": 2, "parent": done.parent, "config": done.config})
    # Killed in between: what is left is what it was.
    assert Population(spec, 1.0).step(trials).copy == [first["00007"]]
    done = first["00007"]
    trials["00007"].lineage.append({"epoch": 2, "parent": done.parent, "config": done.config})
    step = Population(spec, 1.0).step(trials)
    assert not step.copy
    assert [part.until for part in step.train] == [4] * 8
    assert settings_before(trials["00007"], 2) == trials["00007"].lineage[0]["config"]
    assert settings_before(trials["00007"], 4) == first["00007"].config


def test_after_the_last_look_all_are_trained_to_their_end() -> None:
    spec = sweep(scheduler={"name": "pbt", "interval": 4})
    trials = population(spec, [0.5] * 8, 4)
    for copy in Population(spec, 1.0).step(trials).copy:
        trials[copy.name].lineage.append({"epoch": 4, "parent": copy.parent, "config": copy.config})
    assert Population(spec, 1.0).step(trials).train == [Part(trial_name(index), None) for index in range(8)]
    for trial in trials.values():
        trial.status = "finished"
    assert Population(spec, 1.0).step(trials).train == []


def test_a_failed_trial_takes_no_part_and_nan_is_the_worst() -> None:
    spec = sweep(scheduler={"name": "pbt", "interval": 2, "quantile": 0.5})
    trials = population(spec, [0.1, math.nan, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 2)
    trials["00007"].status, trials["00007"].curve = "failed", []
    copies = Population(spec, 1.0).step(trials).copy
    assert [copy.name for copy in copies] == ["00001", "00002"]
    assert {copy.parent for copy in copies} <= {"00004", "00005", "00006"}


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=60)
def test_decisions_keep_to_the_rules(data: st.DataObject) -> None:
    spec = sweep(
        seed=data.draw(st.integers(0, 1000)),
        scheduler={
            "name": "pbt",
            "quantile": data.draw(st.floats(0.01, 0.5)),
            "resample": data.draw(st.floats(0, 1)),
        },
    )
    trials = {trial.name: trial for trial in Population(spec, 1.0).step({}).begin}
    order = data.draw(st.permutations(list(trials)))[: data.draw(st.integers(2, 8))]
    configs = {name: trials[name].config for name in order}
    epoch = data.draw(st.integers(1, 5))
    copies = decide(spec, order, configs, epoch)
    assert copies == decide(spec, order, configs, epoch)
    count = max(1, math.ceil(spec.scheduler.quantile * len(order)))
    count = min(count, len(order) // 2)
    names = {copy.name for copy in copies}
    assert names == set(order[-count:]) - {"00000"}
    for copy in copies:
        assert copy.parent in order[:count]
        assert copy.config.keys() == SPACE.keys()
        for key in NUMBERS:
            low, high = next(iter(SPACE[key].values()))
            assert low <= copy.config[key] <= high
        assert copy.config["clip"] in SPACE["clip"]["choice"]
        assert isinstance(copy.config["augment.randaugment"], int)
        # What was explored can be trained with.
        assert trained_with(spec.train, copy.config).lr == copy.config["lr"]


def test_each_round_and_each_trial_has_its_own_draws() -> None:
    spec = sweep(scheduler={"name": "pbt", "quantile": 0.5, "resample": 1.0})
    trials = {trial.name: trial for trial in Population(spec, 1.0).step({}).begin}
    configs = {name: trial.config for name, trial in trials.items()}
    rates = [copy.config["lr"] for epoch in (1, 2) for copy in decide(spec, list(trials), configs, epoch)]
    assert len(set(rates)) == len(rates) == 8
    other = decide(sweep(seed=1, scheduler=spec.scheduler), list(trials), configs, 1)
    assert other[0].config["lr"] != rates[0]


@pytest.mark.parametrize("seed", range(20))
def test_a_setting_is_moved_by_a_fifth_or_to_a_neighbour(seed: int) -> None:
    spec = sweep(scheduler={"name": "pbt", "resample": 0.0})
    rng = np.random.default_rng(seed)
    config = {"lr": 1e-2, "weight_decay": 0.05, "augment.randaugment": 2, "clip": 0.5}
    found = explore(spec, config, rng)
    assert found["lr"] == pytest.approx(8e-3) or found["lr"] == pytest.approx(1.2e-2)
    assert found["weight_decay"] == pytest.approx(0.04) or found["weight_decay"] == pytest.approx(0.06)
    assert found["augment.randaugment"] in (1, 3)
    assert found["clip"] in (None, 1.0)
    at_ends = explore(spec, {"lr": 1e-1, "weight_decay": 0.0, "augment.randaugment": 5, "clip": 2.0}, rng)
    assert at_ends["lr"] == pytest.approx(8e-2) or at_ends["lr"] == 1e-1
    assert at_ends["augment.randaugment"] in (4, 5)
    assert at_ends["clip"] == 1.0


def test_the_defaults_settings_are_where_a_copy_of_them_begins() -> None:
    spec = sweep(
        train={"epochs": 6, "lr": 0.02, "clip": 1.0},
        scheduler={"name": "pbt", "resample": 0.0},
        space={
            "lr": SPACE["lr"],
            "clip": SPACE["clip"],
            "objective.label_smoothing": {"uniform": [0.1, 0.2]},
            "augment.noise": {"uniform": [0.1, 0.2]},
        },
    )
    found = explore(spec, {}, np.random.default_rng(0))
    assert found["lr"] == pytest.approx(0.016) or found["lr"] == pytest.approx(0.024)
    assert found["clip"] in (0.5, 2.0)
    # The defaults do not say it: drawn. They say 0, below the range: its lower end.
    assert 0.1 <= found["objective.label_smoothing"] <= 0.2
    assert found["augment.noise"] == 0.1
