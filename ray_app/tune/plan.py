"""What a plan of rounds is: a pure function of the records, that says what is due.

A plan (hyperband.py, pbt.py) looks at all records and says which trials to train up to which epoch, and
when all have come so far, who ends or goes on from whom. So neither timing nor a kill changes anything: the
records alone decide, and a trial that has come so far is not trained again.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ray_app.tune.ledger import Trial


@dataclass(frozen=True)
class Part:
    """A trial's training up to an epoch."""

    name: str
    until: int | None
    """None: to its end."""


@dataclass(frozen=True)
class Copy:
    """A trial that goes on from another's state, with other settings."""

    name: str
    parent: str
    epoch: int
    """So many both were trained."""
    config: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """What is due now; whoever is being trained already is among `train`."""

    begin: Sequence[Trial] = ()
    """Trials that are to be recorded, and not trained before that."""
    stop: Sequence[str] = ()
    copy: Sequence[Copy] = ()
    train: Sequence[Part] = ()


class Plan(Protocol):
    """Decides from records."""

    epochs: int
    """Of all trials together, if none fails."""

    def step(self, trials: Mapping[str, Trial]) -> Step:
        """Return what is due, of trials whose curves end where their saved states are."""
        ...


def ranked(
    trials: Mapping[str, Trial], names: Iterable[str], metric: str, sign: float, epoch: int
) -> list[str]:
    """Return those that came to an epoch, best first by their values there; what is not finite comes last.

    Args:
        trials: All records.
        names: Who is compared.
        metric: By what.
        sign: -1 where it is better lower.
        epoch: From 1.
    """
    values = {name: value for name in names if (value := trials[name].at(metric, epoch)) is not None}
    return sorted(
        values, key=lambda name: (-sign * values[name] if math.isfinite(values[name]) else math.inf, name)
    )
