"""What the next trial is: the same for a resumed sweep as for one that was not interrupted."""

import pytest

from ray_app.errors import SpecError
from ray_app.spec import parse
from ray_app.spec.tune import Sweep
from ray_app.tune.ledger import Trial
from ray_app.tune.search import LedgerSearch, Proposals, trial_name

SPACE = {
    "lr": {"loguniform": [1e-4, 1e-2]},
    "augment.noise": {"uniform": [0.0, 0.3]},
    "batch_size": {"choice": [16, 32, 64]},
    "epochs": {"int": [1, 4]},
}


def sweep(**changes) -> Sweep:
    return parse({"trials": 6, "space": SPACE, "seed": 3, **changes}, Sweep, "sweep")


def configs(proposals: Proposals) -> list[dict]:
    return [proposals.config(index) for index in range(proposals.sweep.runs)]


def test_the_first_trial_is_the_defaults_and_the_others_lie_in_the_space() -> None:
    first, *rest = configs(Proposals(sweep(), []))
    assert first == {}
    for config in rest:
        assert config.keys() == SPACE.keys()
        assert 1e-4 <= config["lr"] <= 1e-2
        assert 0 <= config["augment.noise"] <= 0.3
        assert config["batch_size"] in (16, 32, 64)
        assert config["epochs"] in (1, 2, 3, 4)
    assert len({config["lr"] for config in rest}) == len(rest)


def test_a_seed_decides_the_draws() -> None:
    assert configs(Proposals(sweep(), [])) == configs(Proposals(sweep(), []))
    assert configs(Proposals(sweep(), [])) != configs(Proposals(sweep(seed=4), []))


def test_the_order_of_keys_says_nothing() -> None:
    turned = {key: SPACE[key] for key in reversed(SPACE)}
    assert configs(Proposals(sweep(space=turned), [])) == configs(Proposals(sweep(), []))


def test_a_resumed_random_search_hands_out_what_is_left_of_the_same_sequence() -> None:
    whole = configs(Proposals(sweep(), []))
    search = LedgerSearch(Proposals(sweep(), []), [1, 4, 5], "accuracy", "max")
    handed = [search.suggest(f"id-{i}") for i in range(4)]
    assert handed[:3] == [{"name": trial_name(i), "config": whole[i]} for i in (1, 4, 5)]
    assert handed[3] == "FINISHED"


def test_optuna_is_told_what_an_earlier_run_found() -> None:
    spec = sweep(search="optuna", trials=55, space={"lr": {"uniform": [0.0001, 1.0]}})
    known = [
        Trial(trial_name(i), {"lr": 0.001 + i / 40}, "finished", [{"accuracy": -abs(0.001 + i / 40 - 0.7)}])
        for i in range(1, 35)
    ]
    proposals = Proposals(spec, known)
    ignorant = Proposals(spec, [])
    distances = [
        sum(abs(told.config(index)["lr"] - 0.7) for index in range(35, 55)) / 20
        for told in (proposals, ignorant)
    ]
    # Knowing that 0.7 is best, it looks there; a search that knows nothing looks everywhere.
    assert distances[0] < 0.6 * distances[1]
    assert proposals.config(3) == {"lr": 0.001 + 3 / 40}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"lr": {"uniform": [1.0]}},
            r"space.lr.uniform: expected \[low, high\] with low < high, got \[1.0\]",
        ),
        ({"lr": {"unifrom": [0, 1]}}, "unknown kind 'unifrom'; did you mean 'uniform'"),
        ({"lr": {"loguniform": [0, 1]}}, "low must be > 0, got 0; or use uniform"),
        ({"lr": {"uniform": [0.1, 20.0]}}, "lr: input should be less than or equal to 10, got 20.0"),
        ({"learning_rate": {"uniform": [0.1, 1.0]}}, "learning_rate: unknown key"),
        ({"augment.nose": {"uniform": [0.1, 1.0]}}, "augment.nose: unknown key; did you mean 'noise'"),
        (
            {"lr": {"uniform": [0.1, 1.0], "choice": [1]}},
            "expected one of uniform, loguniform, int, choice, grid",
        ),
        ({"lr": {"choice": [0.1], "when": {"lrr": 1}}}, "lr.when: 'lrr' is not in the space"),
        ({"adapter.r": {"int": [2, 4]}}, "there is no adapter in `train`; add it, or choose whole ones"),
        ({"batch_size": {"choice": []}}, r"space.batch_size.choice: expected a list, got \[\]"),
    ],
)
def test_a_wrong_space_is_refused_before_anything_starts(space: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        sweep(space=space)


GRID = {"batch_size": {"grid": [16, 32]}, "lr": {"grid": [1e-3, 1e-2]}}


def test_a_grid_is_all_of_it_after_the_defaults() -> None:
    spec = sweep(search="grid", trials=None, space=GRID)
    found = configs(Proposals(spec, []))
    assert found[0] == {}
    assert found[1:] == [{"batch_size": b, "lr": lr} for b in (16, 32) for lr in (1e-3, 1e-2)]
    assert configs(Proposals(sweep(search="grid", trials=3, space=GRID), [])) == found[:3]


def test_seeds_repeat_each_configuration() -> None:
    plain = configs(Proposals(sweep(), []))
    found = configs(Proposals(sweep(seeds=3, train={"seed": 5}), []))
    assert len(found) == 18
    for index, config in enumerate(found):
        assert config == {**plain[index // 3], "seed": 5 + index % 3}
    with pytest.raises(SpecError, match="`seed` is in the space already"):
        sweep(seeds=2, space={"seed": {"int": [0, 9]}})


@pytest.mark.parametrize("search", ["random", "optuna", "grid"])
def test_whatever_is_left_is_handed_out_as_it_would_have_been(search: str) -> None:
    spec = sweep(search=search, seeds=2, trials=4, space=GRID if search == "grid" else SPACE)
    whole = configs(Proposals(spec, []))
    # Finished without a result to learn from, so that TPE draws as if nothing had been told.
    known = [Trial(trial_name(i), whole[i], "failed") for i in (0, 1, 2, 4)]
    handing = LedgerSearch(Proposals(spec, known), [3, 5, 6, 7], "accuracy", "max")
    handed = [handing.suggest(f"id-{i}") for i in range(5)]
    assert [one["name"] for one in handed[:4]] == [trial_name(i) for i in (3, 5, 6, 7)]
    assert handed[4] == "FINISHED"
    if search != "optuna":
        assert [one["config"] for one in handed[:4]] == [whole[i] for i in (3, 5, 6, 7)]
    else:
        # The second seed of what was begun has its configuration.
        assert handed[0]["config"] == whole[3]
        assert handed[1]["config"] == whole[5]


def test_a_budget_of_epochs_begins_no_further_trial() -> None:
    spent = iter([0, 0, 9, 10, 10])
    search = LedgerSearch(
        Proposals(sweep(budget={"epochs": 10}), []), list(range(6)), "accuracy", "max", lambda: next(spent)
    )
    handed = [search.suggest(f"id-{i}") for i in range(5)]
    assert [one["name"] for one in handed[:4]] == [trial_name(i) for i in range(4)]
    assert handed[4] == "FINISHED"


def test_a_budget_of_hours_still_runs_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 7200.0, 7200.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    search = LedgerSearch(Proposals(sweep(budget={"hours": 1}), []), list(range(6)), "accuracy", "max")
    assert search.suggest("a") == {"name": trial_name(0), "config": {}}
    assert search.suggest("b") == "FINISHED"
