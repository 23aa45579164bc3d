"""Plots of many trials at once: what each was set to, and how each went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ray_app.report.plots import COLOURS, INK, SOFT, WASH, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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

    def ticks(self) -> tuple[list[float], list[str]]:
        """Return where what is written, places between 0 and 1."""
        if self.kind == "category":
            names = self._categories()
            return [self._of_category(name) for name in names], names
        low, high = self._ends()
        if self.kind == "linear":
            return [0.0, 0.5, 1.0], [f"{low + share * (high - low):.3g}" for share in (0, 0.5, 1)]
        return [0.0, 0.5, 1.0], [f"{low * (high / low) ** share:.2g}" for share in (0, 0.5, 1)]

    def places(self) -> np.ndarray:
        """Return float64 [n] between 0 and 1; nan where there is no value."""
        if self.kind == "category":
            return np.array([np.nan if v is None else self._of_category(v) for v in self.values], dtype=float)
        values = np.array([np.nan if v is None else v for v in self.values], dtype=float)
        low, high = self._ends()
        if self.kind == "log":
            values, low, high = np.log(values), float(np.log(low)), float(np.log(high))
        return np.asarray((values - low) / (high - low))

    def _ends(self) -> tuple[float, float]:
        known = [float(value) for value in self.values if value is not None and np.isfinite(value)]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        if low == high:
            return (low / 2, high * 2) if self.kind == "log" else (low - 0.5, high + 0.5)
        return low, high

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
    every = [*axes, Axis(metric, "linear", [None if np.isnan(v) else v for v in values])]
    figure, plot = canvas(max(6.8, 1.25 * len(every)), 3.6)
    finite = np.array([v for v in values if np.isfinite(v)])
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
        bar.outline.set_visible(False)  # type: ignore[operator]  # matplotlib's stubs call it a Patch or a call
    return figure


def curves(series: "Sequence[Curve]", xlabel: str, ylabel: str, *, lower_is_better: bool) -> Figure:
    """A line a trial; the best finished ones are named, and stopped and failed ones end in a mark."""
    figure, plot = canvas(6.8, 3.6)

    def worth(curve: "Curve") -> float:
        return -curve.y[-1] if lower_is_better else curve.y[-1]

    finished = [c for c in series if c.status == "finished" and c.y and np.isfinite(c.y[-1])]
    best = sorted(finished, key=lambda c: (-worth(c), c.name))[:NAMED]
    rest = [c for c in series if c not in best and c.y]
    for curve in rest:
        plot.plot(
            curve.x, curve.y, color=SOFT, lw=0.8, alpha=0.7, marker="o" if len(curve.x) == 1 else "", ms=3
        )
    for status, mark, colour, label in _ENDS:
        ends = [(c.x[-1], c.y[-1]) for c in series if c.status == status and c.y]
        if ends:
            plot.plot(
                *zip(*ends, strict=True), mark, color=colour, ms=6, mew=1.6, label=f"{label} ({len(ends)})"
            )
    for index, curve in enumerate(best):
        shown = curve.x, curve.y
        plot.plot(*shown, color=COLOURS[index], lw=1.8, marker="o", ms=3, label=curve.name, zorder=3)
    _within_sight(plot, [value for curve in series for value in curve.y], [c.y[-1] for c in finished])
    plot.xaxis.get_major_locator().set_params(integer=True)
    if plot.get_legend_handles_labels()[0]:
        plot.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
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


def _within_sight(plot: "Axes", every: Sequence[float], ends: Sequence[float]) -> None:
    """Keep an exploding loss from flattening all that did not explode."""
    known = np.array([value for value in every if np.isfinite(value)])
    if not len(known) or not len(ends):
        return
    low, high = float(known.min()), float(known.max())
    usual = float(np.quantile(known, 0.95))
    room = max(usual - low, 1e-9)
    if high > usual + 3 * room:
        plot.set_ylim(low - 0.05 * room, usual + 0.5 * room)


def _title(axis: Axis) -> str:
    # A long dotted name would run into its neighbour's.
    return axis.name.replace(".", ".\n") + ("\n(log)" if axis.kind == "log" else "")


_ENDS: Sequence[tuple[str, str, str, str]] = (
    ("stopped", "_", INK, "stopped early"),
    ("failed", "x", COLOURS[1], "failed"),
)
_PLATE: Mapping[str, Any] = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
