"""Which settings of a sweep mattered: how much of the metric's variance each explains by itself (fANOVA).

    importance(s) = Var_v [ E[metric | s = v] ] / Var[metric]      in 0..1

Means and variances are those of a random forest fitted to the trials, so its share of chance counts too. What
single settings leave unexplained is in how they act together.

Reference: F. Hutter, H. Hoos, K. Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter
Importance", ICML 2014. The computation is Optuna's.
Cost: a forest of 64 trees for the settings that every trial has, and one for each conditional setting.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ray_app.spec.space import LISTS, WHEN, conditions, encoded, order
from ray_app.spec.train import Train
from ray_app.spec.tune import Sweep
from ray_app.tune.ledger import Trial

LEAST = 6
"""Trials; of fewer, a forest says nothing."""

_ABSENT = object()


def importance(sweep: Sweep, trials: Sequence[Trial], seed: int = 0) -> pa.Table:
    """Return a row a setting, the most important first.

    A conditional setting is judged among the trials that have it.

    Args:
        sweep: The space and the metric.
        trials: In any state; those that finished count.
        seed: Of the forest.

    Returns:
        Columns `setting`, `importance`, `trials` (on which it rests). No rows, and a `note` in the schema's
        metadata, where there is nothing to say.
    """
    done = [
        (complete(sweep, trial.config), trial.last(sweep.metric))
        for trial in trials
        if trial.status == "finished" and math.isfinite(trial.last(sweep.metric))
    ]
    free = [key for key in order(sweep.space) if not conditions(sweep.space, key)]
    if note := _nothing_to_say(sweep, done):
        return _table([], note)
    found: dict[str, tuple[float, int]] = {}
    for key in sweep.space:
        asked = list(dict.fromkeys([*free, key]))
        having = [
            ({name: config[name] for name in asked}, value)
            for config, value in done
            if all(name in config and _inside(sweep.space[name], config[name]) for name in asked)
        ]
        if len(having) < LEAST or np.ptp([value for _, value in having]) == 0:
            continue
        # All unconditional settings are judged by one forest: the same trials, the same seed.
        if key in free and found.keys() & set(free):
            continue
        judged = _fanova(sweep, having, asked, seed)
        for name in free if key in free else [key]:
            found[name] = (judged[name], len(having))
    if not found:
        return _table([], f"fewer than {LEAST} finished trials lie within the space")
    rows = [(name, *values) for name, values in found.items()]
    return _table(sorted(rows, key=lambda row: (-row[1], row[0])), "")


def complete(sweep: Sweep, config: dict[str, Any]) -> dict[str, Any]:
    """Return what a trial had of each setting of the space, the defaults' values too.

    A setting whose condition does not hold is left out.
    """
    full: dict[str, Any] = {}
    for key in order(sweep.space):
        value = config[key] if key in config else default_of(sweep.train, key)
        waits = conditions(sweep.space, key)
        if value is not _ABSENT and all(
            full.get(other, _ABSENT) in wanted for other, wanted in waits.items()
        ):
            full[key] = value
    return full


def default_of(train: Train, key: str) -> Any:
    """Return a dotted setting's value in the defaults; a whole method by its name where it is one."""
    place: Any = train.model_dump(mode="json")
    for part in key.split("."):
        if isinstance(place, list):
            place = {one["name"]: one for one in place}
        if not isinstance(place, dict) or part not in place:
            return _ABSENT
        place = place[part]
    return place["name"] if isinstance(place, dict) and "name" in place else place


def _inside(distribution: dict[str, Any], value: Any) -> bool:
    kind, values = next((kind, values) for kind, values in distribution.items() if kind != WHEN)
    if kind in LISTS:
        return value in values
    return isinstance(value, (int, float)) and bool(values[0] <= value <= values[1])


def _nothing_to_say(sweep: Sweep, done: Sequence[tuple[dict[str, Any], float]]) -> str:
    if not sweep.space:
        return "the sweep has no space, so no setting could matter"
    if len(done) < LEAST:
        return f"{len(done)} trials finished; it takes {LEAST} to tell which settings mattered"
    if np.ptp([value for _, value in done]) == 0:
        return f"all {len(done)} finished trials have the same {sweep.metric}"
    drawn = [[config.get(key, _ABSENT) for config, _ in done] for key in sweep.space]
    if all(all(value == values[0] for value in values) for values in drawn):
        return "all finished trials have the same settings"
    return ""


def _fanova(
    sweep: Sweep, having: Sequence[tuple[dict[str, Any], float]], asked: list[str], seed: int
) -> dict[str, float]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize" if sweep.metric == "nll" else "maximize")
    for config, value in having:
        params, made = encoded(sweep.space, config)
        study.add_trial(optuna.create_trial(params=params, distributions=made, value=value))
    return FanovaImportanceEvaluator(seed=seed).evaluate(study, params=asked)


def _table(rows: Sequence[tuple[str, float, int]], note: str) -> pa.Table:
    names, values, counts = zip(*rows, strict=True) if rows else ((), (), ())
    schema = pa.schema(
        [("setting", pa.string()), ("importance", pa.float64()), ("trials", pa.int64())], {"note": note}
    )
    return pa.table({"setting": names, "importance": values, "trials": counts}, schema=schema)
