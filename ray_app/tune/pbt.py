"""Population-based training: the worst go on from the best, with settings moved a little.

    every `interval` epochs, of n trials that came so far, k = min(ceil(quantile n), floor(n / 2)):
    each of the k worst takes state and settings of one of the k best, drawn; then each setting is drawn anew
    with probability `resample`, else it becomes 0.8 or 1.2 times what it was (whole numbers: one step at
    least; choices: a neighbour), within its range

Reference: M. Jaderberg et al., "Population Based Training of Neural Networks", 2017,
https://arxiv.org/abs/1711.09846
Departure: all trials stop at the same epochs, where the paper's are asynchronous, so that a seed decides the
whole course. Trial 0, the defaults, never copies: it is trained as it would be without a sweep. Nobody copies
at the last epoch, as nothing would follow.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ray_app.spec.space import LISTS, kind_of
from ray_app.spec.tune import Sweep
from ray_app.tune.ledger import Change, Trial
from ray_app.tune.plan import Copy, Part, Step, ranked
from ray_app.tune.search import Proposals, trial_name

_FACTORS = (0.8, 1.2)


class Population:
    """The plan of a sweep.

    Args:
        sweep: With `scheduler: pbt`.
        sign: -1 where the metric is better lower.
    """

    def __init__(self, sweep: Sweep, sign: float) -> None:
        self._sweep, self._sign = sweep, sign
        self.epochs = sweep.runs * sweep.train.epochs

    def step(self, trials: Mapping[str, Trial]) -> Step:
        """Return what is due."""
        sweep = self._sweep
        names = [trial_name(index) for index in range(sweep.runs)]
        if any(name not in trials for name in names):
            return Step(begin=[trial for trial in self._first() if trial.name not in trials])
        for epoch in range(sweep.scheduler.interval, sweep.train.epochs, sweep.scheduler.interval):
            waited_for = [
                Part(name, epoch)
                for name in names
                if trials[name].status == "running" and len(trials[name].curve) < epoch
            ]
            if waited_for:
                return Step(train=waited_for)
            order = ranked(trials, names, sweep.metric, self._sign, epoch)
            before = {name: settings_before(trials[name], epoch) for name in order}
            left = [
                copy
                for copy in decide(sweep, order, before, epoch)
                if trials[copy.name].status == "running"
                and all(change["epoch"] != epoch for change in trials[copy.name].lineage)
            ]
            if left:
                return Step(copy=left)
        return Step(train=[Part(name, None) for name in names if trials[name].status == "running"])

    def _first(self) -> list[Trial]:
        proposals = Proposals(self._sweep, [])
        made = []
        for index in range(self._sweep.runs):
            config = proposals.config(index)
            lineage: list[Change] = [{"epoch": 0, "parent": None, "config": config}]
            made.append(Trial(trial_name(index), config, lineage=lineage))
        return made


def settings_before(trial: Trial, epoch: int) -> dict[str, Any]:
    """Return the settings with which a trial came to an epoch, whatever it has had since."""
    return [change["config"] for change in trial.lineage if change["epoch"] < epoch][-1]


def decide(sweep: Sweep, order: list[str], configs: Mapping[str, dict[str, Any]], epoch: int) -> list[Copy]:
    """Return who goes on from whom after an epoch, and with which settings.

    Args:
        sweep: Has the space, the scheduler's options and the seed.
        order: Trials that came so far, best first.
        configs: Their settings up to here.
        epoch: The epoch; each has its own draws.
    """
    count = min(math.ceil(sweep.scheduler.quantile * len(order)), len(order) // 2)
    best, worst = order[:count], order[len(order) - count :]
    copies = []
    for name in sorted(worst):
        if name == trial_name(0):
            continue
        rng = np.random.default_rng([sweep.seed, epoch, int(name)])
        parent = best[rng.integers(count)]
        copies.append(Copy(name, parent, epoch, explore(sweep, configs[parent], rng)))
    return copies


def explore(sweep: Sweep, config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Return settings near others: each key of the space moved, or drawn anew."""
    found = {}
    for key in sorted(sweep.space):
        kind, values = kind_of(sweep.space[key])
        value = config.get(key, _default(sweep, key))
        known = value in values if kind in LISTS else isinstance(value, (int, float))
        # What the defaults leave open has no neighbours.
        anew = rng.random() < sweep.scheduler.resample or not known
        found[key] = _drawn(kind, values, rng) if anew else _moved(kind, values, value, rng)
    return found


def _drawn(kind: str, values: list[Any], rng: np.random.Generator) -> Any:
    if kind in LISTS:
        return values[rng.integers(len(values))]
    low, high = values
    if kind == "int":
        return int(rng.integers(low, high, endpoint=True))
    if kind == "loguniform":
        # The exponential of a logarithm can be a bit beyond.
        return _within(math.exp(rng.uniform(math.log(low), math.log(high))), values)
    return float(rng.uniform(low, high))


def _moved(kind: str, values: list[Any], value: Any, rng: np.random.Generator) -> Any:
    up = bool(rng.integers(2))
    if kind in LISTS:
        place = values.index(value)
        # At an end there is one neighbour.
        there = [one for one in (place - 1, place + 1) if 0 <= one < len(values)]
        return values[there[-1 if up else 0]] if there else value
    if kind == "int":
        step = max(1, round(abs(value) * (_FACTORS[1] - 1)))
        return int(_within(value + step if up else value - step, values))
    return float(_within(value * _FACTORS[up], values))


def _within(value: Any, values: list[Any]) -> Any:
    low, high = values
    return min(max(value, low), high)


def _default(sweep: Sweep, key: str) -> Any:
    """What the defaults in `train` say of a key; None: nothing."""
    place: Any = sweep.train.model_dump()
    for part in key.split("."):
        if isinstance(place, list):
            place = {one["name"]: one for one in place}
        place = place.get(part) if isinstance(place, dict) else None
    return place
