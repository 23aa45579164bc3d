"""Search spaces as YAML writes them: `lr: {loguniform: [1e-5, 0.1]}`, some `when` another has a value."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from ray_app import registry

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

KINDS = ("uniform", "loguniform", "int", "choice", "grid")
LISTS = ("choice", "grid")
"""Kinds whose values are all there is."""
WHEN = "when"

Space = Mapping[str, Mapping[str, Any]]


def corners(key: str, distribution: Mapping[str, Any]) -> list[Any]:
    """Return the values at the ends of a distribution, or all choices: what must be valid for the rest to be.

    Raises:
        ValueError: Not a distribution; the message has its key.
    """
    kinds = [kind for kind in distribution if kind != WHEN]
    if len(kinds) != 1:
        raise ValueError(f"space.{key}: expected one of {', '.join(KINDS)}, got keys {kinds}")
    kind, values = kinds[0], distribution[kinds[0]]
    if kind not in KINDS:
        raise ValueError(
            f"space.{key}: unknown kind {kind!r}{registry.nearest(kind, list(KINDS))} ({', '.join(KINDS)})"
        )
    if not isinstance(values, list) or not values:
        raise ValueError(f"space.{key}.{kind}: expected a list, got {values!r}")
    if kind in LISTS:
        return values
    numbers = all(isinstance(value, int if kind == "int" else (int, float)) for value in values)
    if len(values) != 2 or not numbers or not values[0] < values[1]:
        raise ValueError(f"space.{key}.{kind}: expected [low, high] with low < high, got {values!r}")
    if kind == "loguniform" and values[0] <= 0:
        raise ValueError(f"space.{key}.loguniform: low must be > 0, got {values[0]!r}; or use uniform")
    return values


def check(space: Space) -> None:
    """Refuse conditions that can never hold, or that hang on one another in a circle.

    Raises:
        ValueError: Says which.
    """
    for key in space:
        for other, wanted in conditions(space, key).items():
            if other not in space:
                raise ValueError(
                    f"space.{key}.when: {other!r} is not in the space{registry.nearest(other, list(space))};"
                    " a condition is on another key of it"
                )
            values = _list_of(space[other])
            if values is None:
                raise ValueError(f"space.{key}.when: {other} is a range; a condition is on a choice")
            if missing := [value for value in wanted if value not in values]:
                raise ValueError(
                    f"space.{key}.when: {other} is never {missing[0]!r} (it is one of {values}); mend either"
                )
    order(space)
    for key in space:
        _check_together(space, key)


def conditions(space: Space, key: str) -> dict[str, list[Any]]:
    """Return what a key waits for: another key → the values, of which it must have one.

    Raises:
        ValueError: `when` is no mapping.
    """
    said = space[key].get(WHEN, {})
    if not isinstance(said, Mapping):
        raise ValueError(f"space.{key}.when: expected another key and its value, got {said!r}")
    return {other: value if isinstance(value, list) else [value] for other, value in said.items()}


def order(space: Space) -> list[str]:
    """Return the keys, each after those that it waits for, else alphabetically.

    The order of keys in a file says nothing, and what is drawn first must not hang on it.

    Raises:
        ValueError: Conditions go in a circle.
    """
    placed: list[str] = []
    while len(placed) < len(space):
        ready = sorted(key for key in space if key not in placed and set(conditions(space, key)) <= {*placed})
        if not ready:
            left = sorted(space.keys() - set(placed))
            raise ValueError(
                f"space.{left[0]}.when: {' and '.join(left)} wait for one another; drop one `when`"
            )
        placed.append(ready[0])
    return placed


def draw(space: Space, trial: "optuna.Trial") -> dict[str, Any]:
    """Draw settings: keys whose conditions hold, the others are left out.

    A choice is drawn by its position, so that it may hold anything.
    """
    config: dict[str, Any] = {}
    for key in order(space):
        if not _holds(space, key, config):
            continue
        kind, values = kind_of(space[key])
        if kind in LISTS:
            config[key] = values[trial.suggest_categorical(key, list(range(len(values))))]
        elif kind == "int":
            config[key] = trial.suggest_int(key, *values)
        else:
            low, high = map(float, values)
            config[key] = trial.suggest_float(key, low, high, log=kind == "loguniform")
    return config


def encoded(space: Space, config: Mapping[str, Any]) -> "tuple[dict[str, Any], dict[str, BaseDistribution]]":
    """Return settings as parameters and their distributions: what a search is told of them.

    Raises:
        ValueError: A value that the choices lack.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    params: dict[str, Any] = {}
    made: dict[str, BaseDistribution] = {}
    for key, value in config.items():
        kind, values = kind_of(space[key])
        if kind in LISTS:
            made[key] = CategoricalDistribution(list(range(len(values))))
            params[key] = values.index(value)
            continue
        params[key] = value
        low, high = values
        made[key] = (
            IntDistribution(low, high)
            if kind == "int"
            else FloatDistribution(float(low), float(high), log=kind == "loguniform")
        )
    return params, made


def combinations(space: Space) -> Iterator[dict[str, Any]]:
    """Yield every combination of a grid, the last key's values fastest; those that are equal once.

    Raises:
        ValueError: A key is a range.
    """
    keys = order(space)
    for key in keys:
        if _list_of(space[key]) is None:
            raise ValueError(f"space.{key}: a grid needs values: {{grid: [...]}}; or use search: random")
    seen: list[dict[str, Any]] = []
    for values in product(*(kind_of(space[key])[1] for key in keys)):
        config: dict[str, Any] = {}
        for key, value in zip(keys, values, strict=True):
            if _holds(space, key, config):
                config[key] = value
        if config not in seen:
            seen.append(config)
            yield config


def _holds(space: Space, key: str, config: Mapping[str, Any]) -> bool:
    # A key that was left out has no value, so what waits for it is left out as well.
    return all(
        other in config and config[other] in wanted for other, wanted in conditions(space, key).items()
    )


def _check_together(space: Space, key: str) -> None:
    """Refuse conditions that contradict those of what they are on."""
    wanted = conditions(space, key)
    for other in wanted:
        for third, theirs in conditions(space, other).items():
            if third in wanted and not [value for value in wanted[third] if value in theirs]:
                raise ValueError(
                    f"space.{key}.when: {third} would have to be {_any(wanted[third])}, but {other} is there"
                    f" only when it is {_any(theirs)}; no trial has both"
                )


def _any(values: Sequence[Any]) -> str:
    return " or ".join(map(repr, values))


def kind_of(distribution: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Return what a distribution is, and its values: the two ends, or all of a list."""
    return next((kind, values) for kind, values in distribution.items() if kind != WHEN)


def _list_of(distribution: Mapping[str, Any]) -> list[Any] | None:
    kind, values = kind_of(distribution)
    return values if kind in LISTS else None
