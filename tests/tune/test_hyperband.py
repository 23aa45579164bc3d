"""Who goes on in HyperBand's brackets, from records made by hand: nothing is trained."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.spec import parse
from ray_app.spec.rounds import Rung
from ray_app.spec.tune import Sweep
from ray_app.tune.hyperband import Bracket, HyperBand, brackets, halve, spread
from ray_app.tune.ledger import Trial
from ray_app.tune.plan import Part, Step
from ray_app.tune.search import trial_name

SPACE = {"lr": {"loguniform": [1e-4, 1e-1]}}


def sweep(**content) -> Sweep:
    given = {"scheduler": {"name": "hyperband"}, "train": {"epochs": 9}, "space": SPACE, **content}
    return parse(given, Sweep, "sweep")


def curve(*values: float) -> list[dict[str, float]]:
    return [{"accuracy": value, "nll": 1 - value, "epoch": i} for i, value in enumerate(values, 1)]


def by_name(*trials: Trial) -> dict[str, Trial]:
    return {trial.name: trial for trial in trials}


def quality(config: Mapping[str, float]) -> float:
    """A made-up metric that grows with lr."""
    return math.log10(config.get("lr", 1e-3)) / 10 + 0.5


def play(plan: HyperBand, trials: dict[str, Trial], most: int = 10_000) -> list[tuple[str, int | None]]:
    """Do what a plan asks for with made-up training, so many parts at most; return the parts in order."""
    done: list[tuple[str, int | None]] = []
    while len(done) < most:
        step = plan.step(trials)
        for trial in step.begin:
            trials[trial.name] = trial
        for name in step.stop:
            trials[name].status = "stopped"
        if step.begin or step.stop:
            continue
        if not step.train:
            return done
        part = step.train[-1]
        trial = trials[part.name]
        length = part.until or 9
        assert len(trial.curve) < length, "it was there already"
        trial.curve = curve(*[quality(trial.config) + epoch / 1000 for epoch in range(1, length + 1)])
        trial.status = "running" if part.until else "finished"
        done.append((part.name, part.until))
    return done


def test_the_best_of_a_rung_go_on_and_the_others_end() -> None:
    bracket = Bracket(range(1, 7), [Rung(6, 1), Rung(2, 3), Rung(1, 9)])
    values = {"00001": 0.5, "00002": 0.9, "00003": math.nan, "00004": 0.9, "00005": 0.7}
    trials = by_name(
        *(Trial(name, {}, curve=curve(value)) for name, value in values.items()),
        Trial("00006", {}),
    )
    # The rung is decided when all have come so far, and not before.
    assert halve(bracket, trials, "accuracy", 1.0) == ([], [Part("00006", 1)])
    trials["00006"] = Trial("00006", {}, status="failed", error="it exploded")
    stopped, parts = halve(bracket, trials, "accuracy", 1.0)
    assert stopped == ["00001", "00003", "00005"]
    assert parts == [Part("00002", 3), Part("00004", 3)]
    # Lower is better: the opposite, and still no nan among them.
    assert halve(bracket, trials, "nll", -1.0) == (stopped, parts)
    assert halve(bracket, trials, "nll", 1.0)[1] == [Part("00001", 3), Part("00005", 3)]
    for name in stopped:
        trials[name].status = "stopped"
    trials["00002"].curve = curve(0.9, 0.8, 0.7)
    assert halve(bracket, trials, "accuracy", 1.0) == ([], [Part("00004", 3)])
    trials["00004"].curve = curve(0.9, 0.6, 0.6)
    assert halve(bracket, trials, "accuracy", 1.0) == (["00004"], [Part("00002", None)])


def test_who_fails_in_a_later_rung_changes_no_earlier_decision() -> None:
    bracket = Bracket(range(1, 4), [Rung(3, 1), Rung(1, 3)])
    trials = by_name(
        Trial("00001", {}, "failed", curve(0.9, 0.9), error="it exploded"),
        Trial("00002", {}, "stopped", curve(0.8)),
        Trial("00003", {}, "stopped", curve(0.7)),
    )
    assert halve(bracket, trials, "accuracy", 1.0) == ([], [])


def test_the_defaults_run_to_their_end_whatever_they_are_worth() -> None:
    trials: dict[str, Trial] = {}
    play(HyperBand(sweep(), 1.0), trials)
    assert trials["00000"].status == "finished"
    assert trials["00000"].config == {}
    assert len(trials["00000"].curve) == 9


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_whole_schedule_trains_as_many_as_the_paper_says(search: str) -> None:
    trials: dict[str, Trial] = {}
    plan = HyperBand(sweep(search=search), 1.0)
    parts = play(plan, trials)
    # R = 9, eta = 3: 9 trials from 1 epoch, 5 from 3, 3 from 9.
    lengths = sorted(len(trial.curve) for trial in trials.values())
    assert lengths == sorted([1] * 6 + [3] * 2 + [9] + [3] * 4 + [9] + [9] * 3)
    assert len(set(parts)) == len(parts)
    assert sum(len(trial.curve) for trial in trials.values()) == plan.epochs
    # In each bracket the best of what was drawn is what went on to the end.
    for bracket in brackets(sweep())[1:3]:
        best = max(bracket.names, key=lambda name: quality(trials[name].config))
        assert [n for n in bracket.names if trials[n].status == "finished"] == [best]
    assert len({trial.config["lr"] for trial in trials.values() if trial.config}) == len(trials) - 1


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_wherever_it_is_cut_off_the_rest_is_the_same(search: str) -> None:
    whole: dict[str, Trial] = {}
    parts = play(HyperBand(sweep(search=search), 1.0), whole)
    for most in range(0, len(parts), 3):
        trials: dict[str, Trial] = {}
        before = play(HyperBand(sweep(search=search), 1.0), trials, most)
        after = play(HyperBand(sweep(search=search), 1.0), trials)
        assert before + after == parts
        assert trials == whole


def test_optuna_proposes_a_bracket_from_what_those_before_it_found() -> None:
    plan = HyperBand(sweep(search="optuna", trials=60), 1.0)
    trials: dict[str, Trial] = {}
    play(plan, trials)
    sizes = [list(bracket.names) for bracket in brackets(sweep(trials=60))]
    mean = [sum(math.log10(trials[n].config["lr"]) for n in names) / len(names) for names in sizes[1:]]
    # lr is best where it is largest: 0.1.
    assert mean[-1] > mean[0] + 0.5
    # It waits for them.
    first: Step = plan.step({})
    assert [trial.name for trial in first.begin] == ["00000"]


@given(st.integers(1, 400), st.integers(1, 100))
@settings(derandomize=True, deadline=None)
def test_trials_are_shared_out_in_proportion(trials: int, epochs: int) -> None:
    made = sweep(trials=trials, train={"epochs": epochs})
    sizes = [rungs[0].trials for rungs in made.brackets()]
    shares = spread(trials, sizes)
    assert sum(shares) == trials
    assert shares[-1] >= 1
    exact = [trials * size / sum(sizes) for size in sizes]
    assert all(abs(share - value) <= 2 for share, value in zip(shares, exact, strict=True))
    groups = brackets(made)
    assert [index for group in groups for index in group.indices] == list(range(trials))
    for group in groups:
        assert group.rungs[0].trials == len(group.indices)
        assert group.rungs[-1].epochs == epochs
        assert all(rung.trials >= 1 for rung in group.rungs)


def test_as_many_trials_as_the_paper_has_are_its_brackets() -> None:
    made = brackets(sweep(train={"epochs": 81}, trials=143))
    assert [[tuple(rung) for rung in bracket.rungs] for bracket in made[1:-1]] == sweep(
        train={"epochs": 81}
    ).brackets()[:-1]
    assert made[-1].rungs == [Rung(4, 81)]
    assert trial_name(142) == made[-1].names[-1]
