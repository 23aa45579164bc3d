"""Search spaces as YAML writes them: one-key mappings, such as `{loguniform: [1e-5, 0.1]}`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray_app import registry

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

KINDS = ("uniform", "loguniform", "int", "choice")


def corners(key: str, distribution: Mapping[str, Any]) -> list[Any]:
    """Return the values at the ends of a distribution, or all choices: what must be valid for the rest to be.

    Raises:
        ValueError: Not a distribution; the message has its key.
    """
    if len(distribution) != 1:
        raise ValueError(f"space.{key}: expected one of {', '.join(KINDS)}, got keys {list(distribution)}")
    kind, values = next(iter(distribution.items()))
    if kind not in KINDS:
        raise ValueError(
            f"space.{key}: unknown kind {kind!r}{registry.nearest(kind, list(KINDS))} ({', '.join(KINDS)})"
        )
    if not isinstance(values, list) or not values:
        raise ValueError(f"space.{key}.{kind}: expected a list, got {values!r}")
    if kind == "choice":
        return values
    numbers = all(isinstance(value, int if kind == "int" else (int, float)) for value in values)
    if len(values) != 2 or not numbers or not values[0] < values[1]:
        raise ValueError(f"space.{key}.{kind}: expected [low, high] with low < high, got {values!r}")
    if kind == "loguniform" and values[0] <= 0:
        raise ValueError(f"space.{key}.loguniform: low must be > 0, got {values[0]!r}; or use uniform")
    return values


def distributions(space: Mapping[str, Mapping[str, Any]]) -> "dict[str, BaseDistribution]":
    """Return Optuna's distributions; a choice is searched by its position, so that it may hold anything.

    In alphabetical order: parameters are drawn one after the other, and the order of keys in a file says
    nothing.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    made: dict[str, BaseDistribution] = {}
    for key, written in sorted(space.items()):
        kind, values = next(iter(written.items()))
        if kind == "choice":
            made[key] = CategoricalDistribution(list(range(len(values))))
        elif kind == "int":
            made[key] = IntDistribution(*values)
        else:
            low, high = map(float, values)
            made[key] = FloatDistribution(low, high, log=kind == "loguniform")
    return made


def decoded(space: Mapping[str, Mapping[str, Any]], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return a draw as settings: positions become what they stand for."""
    return {
        key: space[key]["choice"][value] if "choice" in space[key] else value for key, value in drawn.items()
    }


def encoded(space: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as a draw; the inverse of decoded.

    Raises:
        ValueError: A value that the choices lack.
    """
    return {
        key: space[key]["choice"].index(value) if "choice" in space[key] else value
        for key, value in config.items()
    }
