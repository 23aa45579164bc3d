"""How all benchmarks measure and report.

A pair is the same work done by us and by a peer, in one process, on the same data. The two alternate, so that
what else the machine does hits both; medians count. A pair's ratio is

    peer's seconds / our seconds        higher is better; 1: equal; 2: we are twice as fast

A table goes to people; the last line of the output is one JSON object, metric → number, for machines.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ray_app.metrics.interval import standard_error


@dataclass(frozen=True)
class Pair:
    """One piece of work, done twice."""

    metric: str
    """Its name in the JSON, `<work>_vs_<peer>`."""
    ours: Callable[[], object]
    peer: Callable[[], object]
    what: str
    """The work, for the table."""


@dataclass(frozen=True)
class Timing:
    """What a pair took."""

    metric: str
    what: str
    ours: float
    """Median seconds."""
    peer: float
    """Median seconds."""

    @property
    def ratio(self) -> float:
        """The peer's seconds over ours; higher is better."""
        return self.peer / self.ours


def measure(pair: Pair, rounds: int) -> Timing:
    """Time a pair: one round to warm up, then `rounds` that alternate, ours first in every second one."""
    pair.ours()
    pair.peer()
    ours: list[float] = []
    peer: list[float] = []
    for turn in range(rounds):
        sides = [(pair.ours, ours), (pair.peer, peer)]
        for work, seconds in sides if turn % 2 == 0 else reversed(sides):
            begun = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - begun)
    return Timing(pair.metric, pair.what, statistics.median(ours), statistics.median(peer))


def table(timings: Sequence[Timing]) -> str:
    """Return what people read."""
    wide = max(len(timing.metric) for timing in timings)
    lines = [f"{'metric':{wide}}  {'ours':>9}  {'peer':>9}  ratio  (peer's seconds / ours: higher is better)"]
    lines += [f"{t.metric:{wide}}  {t.ours:8.4f}s  {t.peer:8.4f}s  {t.ratio:5.2f}  {t.what}" for t in timings]
    return "\n".join(lines)


def report(timings: Sequence[Timing], extra: Mapping[str, float] | None = None) -> None:
    """Print the table, then the JSON line: each ratio, and further numbers."""
    print(table(timings))
    numbers = {timing.metric: round(timing.ratio, 4) for timing in timings}
    print(json.dumps({**numbers, **(extra or {})}))


def arguments(doc: str | None, argv: Sequence[str] | None = None) -> bool:
    """Return whether --quick was given."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under four minutes on two cores")
    return bool(parser.parse_args(argv).quick)


def mean_cell(values: Sequence[float]) -> str:
    """Return a mean over seeds, with its standard error where there are several."""
    error = f" ± {standard_error(values):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{error}"


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose columns are as wide as what they hold."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    )
