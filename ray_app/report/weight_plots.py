"""Plots of weights as points: a loss on a plane, distances, and a prediction against what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from ray_app.report.plots import COLOURS, INK, SOFT, WASH, canvas

_WRITTEN = 14  # names; the cells of a larger matrix are too small to write in


@dataclass(frozen=True)
class Mark:
    """A named point on a plane."""

    name: str
    kind: str
    """`start`, `candidate` or `soup`."""
    x: float
    y: float
    loss: float
    """What its label says."""


def plane(x: np.ndarray, y: np.ndarray, loss: np.ndarray, marks: Sequence[Mark]) -> Figure:
    """A loss as shades with lines of equal loss, and points on it.

    Args:
        x: [n], places of the columns.
        y: [m], places of the rows.
        loss: [m, n]; nan and infinity are left white.
        marks: The points.
    """
    figure, axes = canvas(5.6, 5.0)
    shown = np.ma.masked_invalid(loss)
    known = shown.compressed()
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    # Losses rise by powers towards the corners, and what matters lies in the valley.
    norm = (
        LogNorm(low, high) if low > 0 and high > 3 * low else Normalize(low, high if high > low else low + 1)
    )
    shades = axes.contourf(x, y, shown, _levels(norm), cmap="Blues", norm=norm)
    axes.contour(x, y, shown, _levels(norm), colors="white", linewidths=0.5)
    for mark in marks:
        colour, form = _FORMS.get(mark.kind, (INK, "o"))
        axes.plot(mark.x, mark.y, form, color=colour, ms=9, mec="white", mew=1.2)
        right = mark.x > (x[0] + x[-1]) / 2
        axes.annotate(
            f"{mark.name}\n{mark.loss:.3f}",
            (mark.x, mark.y),
            xytext=(-8 if right else 8, 8 if mark.kind != "soup" else -8),
            textcoords="offset points",
            ha="right" if right else "left",
            va="bottom" if mark.kind != "soup" else "top",
            fontsize=8,
            color=INK,
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.2},
        )
    axes.set_aspect("equal")
    axes.set(xlabel="distance from the start, towards the first candidate", ylabel="distance across")
    bar = figure.colorbar(shades, ax=axes, shrink=0.85, format="%.2g")
    bar.set_label("loss on validation rows", fontsize=9)
    bar.ax.tick_params(labelsize=8, length=0, which="both")
    return figure


def matrix(values: np.ndarray, names: Sequence[str], label: str) -> Figure:
    """A symmetric matrix [k, k] in shades, with its numbers where they fit."""
    side = min(7.2, 2.0 + 0.42 * len(names))
    figure, axes = canvas(side + 0.6, side)
    most = float(np.nanmax(values)) if values.size else 0.0
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=most or 1)
    axes.set_xticks(range(len(names)), names, fontsize=8, rotation=90)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.spines[["left", "bottom"]].set_visible(False)
    if len(names) <= _WRITTEN:
        for row, column in np.ndindex(*values.shape):
            value = values[row, column]
            colour = "white" if value > 0.6 * most else INK
            text = "0" if row == column else f"{value:.2g}" if value < 100 else f"{value:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8, length=0)
    return figure


def agreement(
    predicted: Sequence[float], measured: Sequence[float], names: Sequence[str], unit: str
) -> Figure:
    """Points on whose diagonal a prediction holds; the farthest from it are named."""
    figure, axes = canvas(4.6, 4.2)
    ends = [*predicted, *measured, 0.0]
    room = 0.08 * (max(ends) - min(ends) or 1.0)
    limits = min(ends) - room, max(ends) + room
    axes.plot(limits, limits, color=SOFT, ls=":", lw=1)
    axes.axhline(0, color=WASH, lw=1)
    axes.axvline(0, color=WASH, lw=1)
    axes.plot(predicted, measured, "o", color=COLOURS[0], ms=6, alpha=0.85)
    off = np.abs(np.subtract(predicted, measured))
    for index in np.argsort(-off)[:2]:
        right = predicted[index] > sum(limits) / 2
        axes.annotate(
            names[index],
            (predicted[index], measured[index]),
            xytext=(-7 if right else 7, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            fontsize=8,
        )
    axes.set(xlim=limits, ylim=limits, xlabel=f"predicted, {unit}", ylabel=f"measured, {unit}")
    axes.set_aspect("equal")
    return figure


_FORMS = {"start": (COLOURS[7], "s"), "candidate": (COLOURS[1], "o"), "soup": (COLOURS[2], "D")}


def _levels(norm: Normalize) -> np.ndarray:
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 1.0)
    return np.geomspace(low, high, 13) if isinstance(norm, LogNorm) else np.linspace(low, high, 13)
