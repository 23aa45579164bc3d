"""What a build took, added up from what its units say: where the time went, and what it cost."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_app.data.payload import Done
from ray_app.spec.dataset import Compute

STAGES = {"read_s": "read", "prepare_s": "prepare", "model_s": "model", "write_s": "write"}
"""Seconds that a unit says, and the stage that they were spent in."""
# Of the rate: what happened before so many units were there is start-up.
_WARM_UNITS = 2


@dataclass
class Accounts:
    """Sums over the units that a run finished."""

    begun: float = field(default_factory=time.time)
    units: int = 0
    rows: int = 0
    spent: dict[str, float] = field(default_factory=dict)
    timeline: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the beginning, and rows that were there then."""
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
            "seconds": self.seconds,
            "seconds_to_first_row": self.seconds_to_first_row,
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
    def rows_per_s(self) -> float:
        """The steady rate: without what went before the first units were there."""
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
        if len(self.timeline) <= _WARM_UNITS:
            return count / self.timeline[-1][0] if self.timeline and self.timeline[-1][0] > 0 else 0.0
        (start, before), (end, after) = self.timeline[_WARM_UNITS - 1], self.timeline[-1]
        share = (after - before) / after if after else 0.0
        return count * share / (end - start) if end > start else 0.0


__all__ = ["STAGES", "Accounts"]
