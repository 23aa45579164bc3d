"""What `scheduler: hyperband` and `pbt` ask of a sweep, and the rungs of HyperBand's brackets."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ray_app.spec.tune import Sweep

_FREE = ("lr", "weight_decay", "layer_decay", "clip")
"""Settings that may change while a training goes on; those of augmentation may too."""
_BOUND = {
    "epochs": "the rounds end at set epochs",
    "batch_size": "it sets the number of steps, which the course of the learning rate is made for",
    "accumulate": "it sets the number of steps, which the course of the learning rate is made for",
    "optimizer": "what it has gathered is no use to another",
    "warmup": "the course of the learning rate has begun",
    "schedule": "the course of the learning rate has begun",
    "cycles": "the course of the learning rate has begun",
    "amp": "the scale of the loss is part of what is gone on from",
    "ema": "the average is part of what is gone on from",
    "patience": "it ends trials one by one",
    "adapter": "another has other weights",
    "seed": "the generators' states are part of what is gone on from",
}


class Rung(NamedTuple):
    """So many trials reach an epoch."""

    trials: int
    epochs: int


def brackets(epochs: int, reduction: int, grace: int) -> list[list[Rung]]:
    """Return the rungs of each bracket, for s from s_max to 0: Algorithm 1 of L. Li et al., JMLR 2018.

        n = ceil((s_max + 1) reduction^s / (s + 1))
        n_i = floor(n / reduction^i),   r_i = floor(epochs / reduction^(s - i))

    s_max is the largest s whose first rung has `grace` epochs or more. Departure: epochs are whole, so r_i is
    rounded down.
    Reference: https://arxiv.org/abs/1603.06560

    Args:
        epochs: Of a trial that is not stopped; the paper's R.
        reduction: One in so many goes on; the paper's eta.
        grace: Epochs of the lowest rung, at least; the paper has 1.
    """
    most = 0
    while epochs // reduction ** (most + 1) >= grace:
        most += 1
    made = []
    for s in range(most, -1, -1):
        trials = -(-(most + 1) * reduction**s // (s + 1))
        made.append([Rung(trials // reduction**i, epochs // reduction ** (s - i)) for i in range(s + 1)])
    return made


def check(sweep: "Sweep") -> None:
    """Refuse a sweep that cannot go in rounds as its scheduler wants.

    Raises:
        ValueError: Names what is in the way.
    """
    name = sweep.scheduler.name
    if sweep.seeds > 1:
        raise ValueError(
            f"seeds: {name} compares trials one by one, and would stop or overwrite some repetitions of a "
            "configuration and not others; leave seeds out, or use scheduler: none"
        )
    if any(train.patience is not None for train in sweep.trains()):
        raise ValueError(
            f"train.patience: ends trials one by one, and {name} in rounds; leave one of them out"
        )
    (_check_hyperband if name == "hyperband" else _check_population)(sweep)


def _check_hyperband(sweep: "Sweep") -> None:
    if "epochs" in sweep.space:
        raise ValueError(
            "space.epochs: hyperband's rungs are shares of train.epochs, so all trials need the same; take "
            "epochs out of the space"
        )
    if sweep.search == "grid":
        raise ValueError(
            "search: grid asks for all combinations to be treated alike, and hyperband's brackets differ; "
            "use search: random, or scheduler: asha"
        )


def _check_population(sweep: "Sweep") -> None:
    for key, distribution in sorted(sweep.space.items()):
        if reason := _bound(key, distribution):
            raise ValueError(
                f"space.{key}: pbt changes settings while training goes on, and {reason}; take it out"
            )
    if "layer_decay" in sweep.space and any(train.layer_decay == 1 for train in sweep.trains()):
        raise ValueError(
            "space.layer_decay: with 1 a layer's weights are in other groups of the optimiser than below 1, "
            "and pbt goes from one to the other; keep train.layer_decay and the range below 1"
        )
    if sweep.search == "optuna":
        raise ValueError(
            "search: optuna learns from trials that ended, and a pbt population begins all at once; use "
            "search: random"
        )
    if not sweep.space:
        raise ValueError(
            "scheduler: pbt moves the settings in the space; give `space`, or use scheduler: none"
        )
    if sweep.configurations < 2:
        raise ValueError(f"trials: {sweep.configurations} is no population; pbt needs 2 or more")
    if sweep.scheduler.interval >= sweep.train.epochs:
        raise ValueError(
            f"scheduler.interval: {sweep.scheduler.interval} must be less than train.epochs "
            f"({sweep.train.epochs}), or nothing is ever compared"
        )
    if sweep.budget.hours is not None or sweep.budget.epochs is not None:
        raise ValueError(
            "budget: a pbt population trains together to the end, trials x train.epochs in all; set those"
        )
    if sweep.train.cycles > 1:
        raise ValueError("train.cycles: a pbt trial's cycles would be other trials' weights; leave it out")


def _bound(key: str, distribution: Any) -> str | None:
    """Return why a setting cannot change under way; None: it can."""
    if "when" in distribution:
        return "a condition (`when`) may come to hold or cease to under way"
    first, *rest = key.split(".")
    if first == "augment":
        return None
    if first == "objective" and rest:
        return (
            None
            if _is_fraction(distribution)
            else "only fractions of an objective can (whole numbers may be sizes)"
        )
    if first in _FREE:
        return None
    return _BOUND.get(first, f"{first} cannot change")


def _is_fraction(distribution: Any) -> bool:
    values = _values(distribution)
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return numbers and (
        "uniform" in distribution
        or "loguniform" in distribution
        or any(isinstance(value, float) for value in values)
    )


def _values(distribution: Any) -> Iterable[Any]:
    return [value for values in distribution.values() if isinstance(values, list) for value in values]
