"""Plots of many trials at once: what each was set to, and how each went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ray_app.report.plots import COLOURS, INK, SOFT, WASH, canvas

_LONGEST = 16  # letters between two axes
NAMED = 5
"""Curves that are named, the best; more than that cannot be told apart."""
_SHADES = colormaps["viridis_r"].with_extremes(bad="#c9c9c9")


@dataclass(frozen=True)
class Axis:
    """One setting: a vertical axis."""

    name: str
    kind: Literal["linear", "log", "category"]
    values: Sequence[Any]
    """A trial each; None: the trial has no such setting. Numbers, or names of categories."""
    ends: tuple[float, float] | None = None
    """Of the axis; None: the least and the greatest value. What lies beyond is drawn at the end."""

    def ticks(self) -> tuple[list[float], list[str]]:
        """Return where what is written, places between 0 and 1."""
        if self.kind == "category":
            names = self._categories()
            return [self._of_category(name) for name in names], [_short(name) for name in names]
        low, high = self._ends()
        if self.kind == "linear":
            known = self._known()
            below = "≤ " if min(known, default=low) < low else ""
            above = "≥ " if max(known, default=high) > high else ""
            middle = f"{(low + high) / 2:.3g}"
            return [0.0, 0.5, 1.0], [f"{below}{low:.3g}", middle, f"{above}{high:.3g}"]
        return [0.0, 0.5, 1.0], [f"{low * (high / low) ** share:.2g}" for share in (0, 0.5, 1)]

    def places(self) -> np.ndarray:
        """Return float64 [n] between 0 and 1; nan where there is no value."""
        if self.kind == "category":
            return np.array([np.nan if v is None else self._of_category(v) for v in self.values], dtype=float)
        values = np.array([np.nan if v is None else v for v in self.values], dtype=float)
        low, high = self._ends()
        if self.kind == "log":
            values, low, high = np.log(values), float(np.log(low)), float(np.log(high))
        return np.clip((values - low) / (high - low), 0, 1)

    def _ends(self) -> tuple[float, float]:
        known = self._known() if self.ends is None else list(self.ends)
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        if low == high:
            return (low / 2, high * 2) if self.kind == "log" else (low - 0.5, high + 0.5)
        return low, high

    def _known(self) -> list[float]:
        return [float(value) for value in self.values if value is not None and np.isfinite(value)]

    def _categories(self) -> list[str]:
        return sorted({value for value in self.values if value is not None})

    def _of_category(self, name: str) -> float:
        names = self._categories()
        return 0.5 if len(names) == 1 else names.index(name) / (len(names) - 1)


def parallel(
    axes: Sequence[Axis], names: Sequence[str], values: Sequence[float], metric: str, *, lower_is_better: bool
) -> Figure:
    """One line a trial across the axes, and the metric as the last of them; the best trial stands out.

    Args:
        axes: The settings, in order.
        names: Of the trials.
        values: The metric of each; nan: it has none, and is drawn in grey.
        metric: Its name.
        lower_is_better: Of the metric.
    """
    finite = np.array([v for v in values if np.isfinite(v)])
    usual = _usual(finite, finite, lower_is_better=lower_is_better)
    every = [*axes, Axis(metric, "linear", [None if np.isnan(v) else v for v in values], usual)]
    figure, plot = canvas(max(6.8, 1.25 * len(every)), 3.6)
    # One trial that learned nothing would make all others one colour.
    low, high = (
        np.quantile(finite, [0.1, 1.0] if not lower_is_better else [0.0, 0.9]) if len(finite) else (0, 1)
    )
    norm = Normalize(low, high if high > low else low + 1e-9, clip=True)
    shades = _SHADES.reversed() if lower_is_better else _SHADES
    places = np.stack([axis.places() for axis in every])
    worth = np.array([-np.inf if np.isnan(v) else -v if lower_is_better else v for v in values])
    many = len(names) > 12
    for index in np.argsort(worth, kind="stable"):
        value = values[index]
        best = bool(np.isfinite(worth[index]) and index == np.argmax(worth))
        colour: Any = COLOURS[1] if best else shades(norm(value)) if np.isfinite(value) else "#c9c9c9"
        y = places[:, index]
        width = 2.6 if best else 0.9 if many else 1.6
        plot.plot(range(len(every)), y, color=colour, lw=width, alpha=0.75 if many and not best else 1)
        dots = [i for i in range(len(every)) if np.isfinite(y[i])]
        for left, right in pairwise(dots):
            if right > left + 1:
                # Across a gap, faintly, so that one can follow a trial to its metric.
                plot.plot([left, right], y[[left, right]], ":", color=colour, lw=0.8, alpha=0.6)
        plot.plot(dots, y[dots], "o", color=colour, ms=4 if best or not many else 2)
    for place, axis in enumerate(every):
        plot.axvline(place, color=SOFT, lw=0.8, zorder=0)
        for at, text in zip(*axis.ticks(), strict=True):
            plot.text(place + 0.03, at, text, fontsize=8, color=INK, va="center", zorder=5, bbox=_PLATE)
    plot.set_xticks(range(len(every)), [_title(axis) for axis in every], fontsize=9)
    plot.set(xlim=(-0.1, len(every) - 0.55), ylim=(-0.06, 1.06))
    plot.set_yticks([])
    plot.spines[["left", "bottom"]].set_visible(False)
    if len(finite) > 1 and high > low:
        bar = figure.colorbar(ScalarMappable(norm, shades), ax=plot, pad=0.01, fraction=0.03)
        bar.set_label(metric, fontsize=9)
        bar.ax.tick_params(labelsize=8, length=0)
        bar.outline.set_visible(False)
    return figure


def curves(series: "Sequence[Curve]", xlabel: str, ylabel: str, *, lower_is_better: bool) -> Figure:
    """A line a trial; the best finished ones are named, and stopped and failed ones end in a mark."""
    figure, plot = canvas(5.6, 4.0)

    def worth(curve: "Curve") -> float:
        return -curve.y[-1] if lower_is_better else curve.y[-1]

    finished = [c for c in series if c.status == "finished" and c.y and np.isfinite(c.y[-1])]
    best = sorted(finished, key=lambda c: (-worth(c), c.name))[:NAMED]
    rest = [c for c in series if c not in best and c.y]
    for curve in rest:
        plot.plot(
            curve.x, curve.y, color=SOFT, lw=0.8, alpha=0.7, marker="o" if len(curve.x) == 1 else "", ms=3
        )
    known = np.array([value for curve in series for value in curve.y if np.isfinite(value)])
    ends = np.array([curve.y[-1] for curve in finished])
    sight = _usual(known, ends if len(ends) else known, lower_is_better=lower_is_better)
    if sight is not None:
        room = 0.05 * (sight[1] - sight[0])
        plot.set_ylim(sight[0] - room, sight[1] + room)
    for status, mark, colour, label in _ENDS:
        last = [_last(curve, sight) for curve in series if curve.status == status]
        places = [place for place in last if place is not None]
        if places:
            text = f"{label} ({len(places)})"
            plot.plot(*zip(*places, strict=True), mark, color=colour, ms=6, mew=1.6, label=text, zorder=4)
    for index, curve in enumerate(best):
        shown = curve.x, curve.y
        plot.plot(*shown, color=COLOURS[index], lw=1.8, marker="o", ms=3, label=curve.name, zorder=3)
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    if plot.get_legend_handles_labels()[0]:
        figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    plot.set_xlabel(xlabel)
    plot.set_ylabel(ylabel)
    plot.grid(color=WASH)
    return figure


@dataclass(frozen=True)
class Curve:
    """One trial's metric after each epoch."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    status: str


def _usual(known: np.ndarray, typical: np.ndarray, *, lower_is_better: bool) -> tuple[float, float] | None:
    """The range in which differences are seen: an exploding loss would flatten all that did not explode.

    Args:
        known: All values that are to be seen, finite.
        typical: Those that say what is usual, likewise.
        lower_is_better: The bad side is the upper one.

    Returns:
        None: all values, for none is out of the usual.
    """
    if not len(known):
        return None
    sign = 1.0 if lower_is_better else -1.0
    bad, usual = sign * known, sign * typical
    edge = max(float(np.quantile(bad, 0.75)), float(np.quantile(usual, 0.9)))
    room = edge - float(bad.min())
    if float(bad.max()) <= edge + 3 * room:
        return None
    low, high = sign * float(bad.min()), sign * (edge + 0.5 * room)
    return min(low, high), max(low, high)


def _last(curve: "Curve", sight: tuple[float, float] | None) -> tuple[float, float] | None:
    """Where a curve's last value is, or the edge of what is in sight; None: it has no value."""
    known = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if np.isfinite(y)]
    if not known:
        return None
    x, y = known[-1]
    return (x, y) if sight is None else (x, min(max(y, sight[0]), sight[1]))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _title(axis: Axis) -> str:
    # A long dotted name would run into its neighbour's.
    return axis.name.replace(".", ".\n") + ("\n(log)" if axis.kind == "log" else "")


_ENDS: Sequence[tuple[str, str, str, str]] = (
    ("stopped", "_", INK, "stopped early"),
    ("failed", "x", COLOURS[1], "failed"),
)
_PLATE: Mapping[str, Any] = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
