"""Plots: arrays in, a matplotlib figure out. Nothing here touches pyplot, hence no display and no state."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, WASH = "#1b2430", "#8a97a6", "#e7edf3"
# Told apart without colour vision too (Okabe and Ito), in the order of use.
COLOURS = ("#1f6fb2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b6b6b", "#000000")


def bars(
    values: Mapping[str, float],
    xlabel: str,
    *,
    errors: Mapping[str, float] | None = None,
    marks: Mapping[str, float] | None = None,
    mark_label: str = "",
    highlight: str | None = None,
    from_zero: bool = False,
) -> Figure:
    """Horizontal bars, the first on top; an optional second value a bar as a mark.

    The axis starts near the smallest value where all are alike, since differences are what one looks for; not
    `from_zero`, for shares of a whole.
    """
    figure, axes = canvas(5.4, 0.9 + 0.3 * len(values))
    names = list(values)
    for place, name in enumerate(names):
        colour = COLOURS[0] if name == highlight or highlight is None else "#b9c9d8"
        error = errors.get(name) if errors else None
        axes.barh(place, values[name], color=colour, height=0.66, xerr=error, ecolor=INK)
    if marks:
        axes.plot(
            [marks[name] for name in names], range(len(names)), "o", color=COLOURS[1], ms=5, label=mark_label
        )
        axes.legend(loc="lower right", frameon=False, fontsize=8)
    everything = np.array([*values.values(), *(marks or {}).values()], dtype=float)
    everything = everything[np.isfinite(everything)]
    if not from_zero and len(everything) and everything.min() > 0 and everything.max() < 2 * everything.min():
        spread = max(float(np.ptp(everything)), 1e-3)
        axes.set_xlim(everything.min() - spread * 0.5, everything.max() + spread * 0.25)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", color=WASH)
    return figure


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, **style: Any
) -> Figure:
    """Curves by name: name → (x, y). Many of them are drawn thin and without a legend."""
    figure, axes = canvas(5.4, 3.4)
    many = len(series) > len(COLOURS)
    for index, (name, (x, y)) in enumerate(series.items()):
        colour = SOFT if many else COLOURS[index % len(COLOURS)]
        axes.plot(
            x, y, color=colour, lw=0.8 if many else 1.8, label=name, marker="" if many else "o", ms=3, **style
        )
    if not many:
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color=WASH)
    return figure


def steps(
    history: Sequence[tuple[str, float, bool]], ylabel: str, reference: float, reference_label: str
) -> Figure:
    """How a combination grew: an ingredient a step, filled where it was kept, hollow where it was not."""
    figure, axes = canvas(4.8, 3.0)
    place = range(len(history))
    values = [value for _, value, _ in history]
    grown = [[v for _, v, kept in history[: i + 1] if kept][-1:] or values[:1] for i in place]
    axes.step(place, [value for (value,) in grown], where="mid", color=COLOURS[0], lw=1.2)
    for index, (_, value, kept) in enumerate(history):
        axes.plot(index, value, "o", color=COLOURS[0], mfc=COLOURS[0] if kept else "white", ms=7)
    axes.axhline(reference, color=COLOURS[1], lw=1, ls="--", label=reference_label)
    axes.legend(frameon=False, fontsize=8)
    axes.set_xticks(list(place), [name for name, _, _ in history], fontsize=8, rotation=45, ha="right")
    axes.set_ylabel(ylabel)
    axes.grid(axis="y", color=WASH)
    return figure


def roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray, float]]) -> Figure:
    """Receiver operating characteristics: name → (false positive rate, true positive rate, area)."""
    figure, axes = canvas(3.5, 3.4)
    for index, (name, (fpr, tpr, area)) in enumerate(curves.items()):
        axes.plot(fpr, tpr, color=COLOURS[index % len(COLOURS)], lw=1.6, label=f"{name} ({area:.3f})")
    axes.plot([0, 1], [0, 1], color=SOFT, lw=0.8, ls=":")
    axes.set(
        xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="normal rows flagged", ylabel="abnormal rows flagged"
    )
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=7, loc="lower right")
    axes.grid(color=WASH)
    return figure


def histograms(groups: Mapping[str, np.ndarray], xlabel: str, threshold: float | None = None) -> Figure:
    """Score distributions on shared bins, the outermost thousandth at each end clipped into the last bins."""
    figure, axes = canvas(5.2, 2.6)
    everything = np.concatenate([np.asarray(values, dtype=float) for values in groups.values()])
    everything = everything[np.isfinite(everything)]
    low, high = np.quantile(everything, [0.001, 0.999]) if len(everything) else (0.0, 1.0)
    bins = np.linspace(low, high if high > low else low + 1, 41).tolist()
    for index, (name, values) in enumerate(groups.items()):
        clipped = np.clip(values, bins[0], bins[-1])
        weights = np.full(len(clipped), 1 / max(1, len(clipped)))
        colour = COLOURS[index % len(COLOURS)]
        axes.hist(clipped, bins, weights=weights, histtype="stepfilled", alpha=0.28, color=colour, label=name)
        axes.hist(clipped, bins, weights=weights, histtype="step", lw=1.2, color=colour)
    if threshold is not None and bins[0] <= threshold <= bins[-1]:
        axes.axvline(threshold, color=INK, lw=1, ls="--", label="threshold")
    axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("share of rows")
    return figure


def confusion(matrix: np.ndarray, labels: Sequence[str]) -> Figure:
    """Rows: truth; columns: prediction; counts [c, c]. Shades are shares of the row."""
    side = min(7.0, 2.0 + 0.36 * len(labels))
    figure, axes = canvas(side, side)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, fontsize=8, rotation=90 if max(map(len, labels)) > 3 else 0)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    if len(labels) <= 20:
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if shares[row, column] > 0.5 else INK
            axes.text(
                column, row, str(int(matrix[row, column])), ha="center", va="center", fontsize=7, color=colour
            )
    axes.set(xlabel="predicted", ylabel="true")
    return figure


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 10) -> Figure:
    """Accuracy against confidence in equal bins; the diagonal is perfect calibration.

    Args:
        confidence: [n], largest probability.
        correct: bool [n].
        bins: How many.
    """
    figure, axes = canvas(4.0, 3.8)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(confidence, edges[1:-1]), 0, bins - 1)
    for index in range(bins):
        inside = place == index
        if inside.any():
            axes.bar(
                edges[index],
                correct[inside].mean(),
                1 / bins,
                align="edge",
                color=COLOURS[0],
                alpha=0.75,
                ec="white",
            )
    axes.plot([0, 1], [0, 1], color=SOFT, ls=":", lw=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.set_aspect("equal")
    return figure


def canvas(width: float, height: float) -> "tuple[Figure, Axes]":
    """Return an empty plot in the house style, sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    return figure, axes
