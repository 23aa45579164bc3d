"""What a build took, added up from what its units say: where the time went, and what it cost."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ray_app.data.payload import Done
from ray_app.spec.dataset import Compute

STAGES = {"read_s": "read", "prepare_s": "prepare", "model_s": "model", "write_s": "write"}
"""Seconds that a unit says, and the stage that they were spent in."""
UNTIL_FIRST = {
    "connect_s": "connect to Ray",
    "read_s": "read the first unit",
    "prepare_s": "prepare it",
    "load_s": "load the model",
    "calibrate_s": "try settings",
    "model_s": "encode it",
    "write_s": "write it",
}
"""Seconds that the first finished unit says, and what they were spent on, in their order."""
# Of the rate: so many units of each process are start-up.
_WARM_UNITS = 1


@dataclass
class Accounts:
    """Sums over the units that a run finished."""

    begun: float = field(default_factory=time.time)
    units: int = 0
    rows: int = 0
    spent: dict[str, float] = field(default_factory=dict)
    timeline: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the beginning, and rows that were there then."""
    connect_s: float = 0.0
    """Seconds that the connection to Ray took."""
    first: Mapping[str, float] = field(default_factory=dict)
    """What the first finished unit took."""
    actors: int = 1
    """Processes that held the model."""
    spilled_bytes: int = 0
    price: float | None = None
    """Of a million rows."""
    seconds: float = 0.0

    def add(self, done: Done) -> None:
        """Count a unit."""
        self.units += 1
        self.rows += done.rows
        self.first = self.first or dict(done.spent)
        for name, value in done.spent.items():
            if name == "actors":
                self.actors = max(self.actors, int(value))
            elif name == "spilled_bytes":
                self.spilled_bytes = max(self.spilled_bytes, int(value))
            else:
                self.spent[name] = self.spent.get(name, 0.0) + value
        self.timeline.append((time.time() - self.begun, self.rows))

    def finish(self, compute: Compute) -> None:
        """Say that the run is over."""
        self.seconds = time.time() - self.begun
        if compute.price_per_hour is not None and self.rows:
            self.price = compute.price_per_hour * self.seconds / 3600 / self.rows * 1e6

    def record(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "begun": self.begun,
            "seconds": self.seconds,
            "seconds_to_first_row": self.seconds_to_first_row,
            "until_first_row_s": dict(self.until_first_row),
            "rows_per_s": self.rows_per_s,
            "tokens_per_s": self.tokens_per_s,
            "padding_share": self.padding_share,
            "busy_share": self.busy_share,
            "bottleneck": self.bottleneck,
            "stages_s": dict(self.stages),
            "spilled_bytes": self.spilled_bytes,
            "price_per_million": self.price,
        }

    @property
    def seconds_to_first_row(self) -> float:
        """From the beginning of the run to its first finished unit."""
        return self.timeline[0][0] if self.timeline else 0.0

    @property
    def until_first_row(self) -> Mapping[str, float]:
        """What was done until the first unit was finished → seconds; the rest is processes that start."""
        spent = {**self.first, "connect_s": self.connect_s}
        known = {name: spent[key] for key, name in UNTIL_FIRST.items() if spent.get(key, 0.0) > 0}
        rest = max(0.0, self.seconds_to_first_row - sum(known.values()))
        return {**known, "start processes, and wait": rest} if self.timeline else {}

    @property
    def rows_per_s(self) -> float:
        """The steady rate: without what went before every process had finished a unit."""
        return self._rate(self.rows)

    @property
    def tokens_per_s(self) -> float | None:
        """The steady rate of tokens; None: rows have none."""
        tokens = self.spent.get("tokens", 0.0)
        return self._rate(tokens) if tokens else None

    @property
    def padding_share(self) -> float | None:
        """Of what the model read, the share that was padding; None: rows have no lengths."""
        places = self.spent.get("places", 0.0)
        return 1 - self.spent["tokens"] / places if places else None

    @property
    def busy_share(self) -> float | None:
        """Of the time that the model's processes had, the share in which they computed; None: no model."""
        if "model_s" not in self.spent or not self.seconds:
            return None
        window = self.timeline[-1][0] - self.timeline[0][0] + self.spent["model_s"] / max(1, self.units)
        return min(1.0, self.spent["model_s"] / (window * self.actors)) if window > 0 else None

    @property
    def stages(self) -> Mapping[str, float]:
        """Stage → seconds that all processes together spent in it."""
        return {name: self.spent[key] for key, name in STAGES.items() if key in self.spent}

    @property
    def bottleneck(self) -> str | None:
        """The stage that held the others up: the model if its processes were busy, else the slowest other."""
        if not self.stages:
            return None
        if "model" in self.stages and (self.busy_share or 0.0) > 0.8:
            return "model"
        others = {name: seconds for name, seconds in self.stages.items() if name != "model"}
        return max(others, key=lambda name: others[name], default="model")

    def _rate(self, count: float) -> float:
        if not self.timeline or not self.rows:
            return 0.0
        return steady_rate(self.timeline, self.actors) * count / self.rows


def steady_rate(timeline: Sequence[tuple[float, float]], processes: int) -> float:
    """Return rows/s while all processes had work: the slope of the line through what was finished when.

    Two ends of a window would not do: processes finish units side by side, so a window may begin after one
    of a pair and end after both.

    Args:
        timeline: Seconds, and rows that were there then; one for each finished unit, in order.
        processes: How many finished units side by side; the first and the last unit of each are left out,
            where that leaves enough.
    """
    edge = processes * _WARM_UNITS
    inner = timeline[edge:-processes] if len(timeline) >= 2 * edge + 2 * processes + 2 else timeline
    seconds, rows = (np.array(values, dtype=np.float64) for values in zip(*inner, strict=True))
    spread = seconds - seconds.mean()
    if not float(spread @ spread):
        return float(rows[-1] / seconds[-1]) if seconds[-1] > 0 else 0.0
    return float(spread @ (rows - rows.mean()) / (spread @ spread))


__all__ = ["STAGES", "Accounts", "steady_rate"]
