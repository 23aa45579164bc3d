"""Plots of many trials: where each line goes, and what is named."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from ray_app.report.plots import COLOURS
from ray_app.report.trial_plots import NAMED, Axis, Curve, curves, parallel


def test_axes_place_numbers_logarithms_and_categories_between_0_and_1() -> None:
    assert Axis("a", "linear", [2.0, 4.0, 3.0]).places().tolist() == [0, 1, 0.5]
    np.testing.assert_allclose(Axis("a", "log", [1e-4, 1e-2, 1e-3]).places(), [0, 1, 0.5])
    assert Axis("a", "category", ["sgd", "adamw", "lion"]).places().tolist() == [1, 0, 0.5]
    assert Axis("a", "log", [1e-4, 1e-2]).ticks() == ([0, 0.5, 1], ["0.0001", "0.001", "0.01"])
    assert Axis("a", "category", ["b", "a", "b"]).ticks() == ([0, 1], ["a", "b"])
    assert Axis("a", "category", ["early_learning strength=3"]).ticks() == ([0.5], ["early_learning …"])


@pytest.mark.parametrize("kind", ["linear", "log", "category"])
def test_axes_take_one_value_and_gaps(kind: str) -> None:
    values = ["x", None] if kind == "category" else [3.0, None]
    places = Axis("a", kind, values).places()  # type: ignore[arg-type]
    assert places[0] == pytest.approx(0.5)
    assert math.isnan(places[1])


def test_a_trial_is_a_line_through_its_values_dotted_across_a_gap_and_the_best_stands_out() -> None:
    axes = [
        Axis("lr", "log", [1e-3, 1e-1]),
        Axis("r", "linear", [None, 4.0]),
        Axis("b", "linear", [0.0, 1.0]),
    ]
    plot = parallel(axes, ["0", "1"], [0.9, 0.4], "accuracy", lower_is_better=False).axes[0]
    solid = [line for line in plot.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 4]  # type: ignore[arg-type]
    # The best is drawn last, on top.
    np.testing.assert_allclose(solid[-1].get_ydata(), [0, np.nan, 0, 1])  # type: ignore[arg-type]
    assert solid[-1].get_color() == COLOURS[1]
    np.testing.assert_allclose(solid[0].get_ydata(), [1, 0.5, 1, 0])  # type: ignore[arg-type]
    (bridge,) = [line for line in plot.lines if line.get_linestyle() == ":"]
    assert (list(bridge.get_xdata()), list(bridge.get_ydata())) == ([0, 2], [0, 0])  # type: ignore[arg-type]
    assert [label.get_text() for label in plot.get_xticklabels()] == ["lr\n(log)", "r", "b", "accuracy"]


def test_where_lower_is_better_the_lowest_is_the_best_and_dark() -> None:
    axes = [Axis("b", "linear", [0.0, 0.5, 1.0, 0.2])]
    values = [0.9, 0.4, 0.5, math.nan]
    plot = parallel(axes, list("abcd"), values, "nll", lower_is_better=True).axes[0]
    lines = [line for line in plot.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"][:4]  # type: ignore[arg-type]
    by_start = {float(line.get_ydata()[0]): line.get_color() for line in lines}  # type: ignore[index]
    assert by_start[0.5] == COLOURS[1]
    assert by_start[0.2] == "#c9c9c9"
    assert sum(by_start[1.0][:3]) < sum(by_start[0.0][:3])  # type: ignore[index]


def test_a_value_far_from_the_usual_is_at_the_end_of_the_axis_which_says_so() -> None:
    values = [*np.linspace(0.4, 0.6, 20).tolist(), 1e6]
    axis = Axis("b", "linear", [0.0] * 21)
    plot = parallel([axis], [str(i) for i in range(21)], values, "nll", lower_is_better=True).axes[0]
    ends = [
        line.get_ydata()[-1] for line in plot.lines if len(line.get_xdata()) == 2 and line.get_ls() == "-"
    ][:21]  # type: ignore[index, arg-type]
    assert max(ends) == 1
    assert sorted(ends)[-2] > 0.5
    # The 18th of 20 steps and half as much again: 0.4 + 1.5 (18 / 19) 0.2.
    assert [text.get_text() for text in plot.texts][-3:][::2] == ["0.4", "≥ 0.684"]
    mirrored = parallel([axis], list("x" * 21), [-v for v in values], "m", lower_is_better=False).axes[0]
    assert [text.get_text() for text in mirrored.texts][-3:][::2] == ["≤ -0.684", "-0.4"]


def test_all_trials_with_one_value_or_none_are_drawn() -> None:
    axes = [Axis("b", "linear", [1.0, 1.0])]
    for values in ([0.5, 0.5], [math.nan, math.nan]):
        figure = parallel(axes, ["0", "1"], values, "accuracy", lower_is_better=False)
        figure.draw_without_rendering()  # type: ignore[no-untyped-call]


def test_a_hundred_trials_have_a_line_each() -> None:
    rng = np.random.default_rng(0)
    axes = [Axis(f"x{i}", "linear", rng.random(100).tolist()) for i in range(6)]
    plot = parallel(axes, [str(i) for i in range(100)], rng.random(100).tolist(), "m", lower_is_better=False)
    assert (
        sum(line.get_linestyle() == "-" and len(line.get_xdata()) == 7 for line in plot.axes[0].lines) == 100
    )  # type: ignore[arg-type]


def test_the_best_curves_are_named_and_ends_are_marked() -> None:
    series = [Curve(f"{i:02d}", [1, 2, 3], [0.1, 0.2, i / 20], "finished") for i in range(9)]
    series += [Curve("s", [1], [0.3], "stopped"), Curve("f", [1, 2], [0.3, 0.9], "failed")]
    series += [Curve("none", [], [], "failed")]
    plot = curves(series, "epoch", "accuracy", lower_is_better=False).axes[0]
    assert plot.get_legend_handles_labels()[1] == [
        "stopped early (1)",
        "failed (1)",
        *(f"{i:02d}" for i in (8, 7, 6, 5, 4)),
    ]
    assert NAMED == 5
    marks = {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in plot.lines}
    assert tuple(map(tuple, marks["stopped early (1)"])) == ((1,), (0.3,))  # type: ignore[arg-type]
    assert tuple(map(tuple, marks["failed (1)"])) == ((2,), (0.9,))  # type: ignore[arg-type]


def test_lower_is_better_names_the_lowest_and_an_explosion_hides_no_curve() -> None:
    series = [Curve(str(i), [1, 2], [1.0, 0.1 * (i + 1)], "finished") for i in range(30)]
    series.append(Curve("bad", [1, 2], [1.0, 1e9], "failed"))
    plot = curves(series, "epoch", "nll", lower_is_better=True).axes[0]
    assert plot.get_legend_handles_labels()[1][1:] == ["0", "1", "2", "3", "4"]
    assert plot.get_ylim()[1] < 10
    # Its mark is at the edge, in sight, and a loss that is not a number marks the last that was.
    failed = next(line for line in plot.lines if line.get_label() == "failed (1)")
    assert 3 < failed.get_ydata()[0] < plot.get_ylim()[1]  # type: ignore[index]
    series[-1] = Curve("bad", [1, 2], [1.0, math.nan], "failed")
    marks = curves(series, "epoch", "nll", lower_is_better=True).axes[0].lines
    failed = next(line for line in marks if line.get_label() == "failed (1)")
    assert (failed.get_xdata()[0], failed.get_ydata()[0]) == (1, 1.0)  # type: ignore[index]


@pytest.mark.parametrize(
    "series", [[], [Curve("a", [1], [math.nan], "failed")], [Curve("a", [], [], "failed")]]
)
def test_curves_take_anything(series: list[Curve]) -> None:
    figure = curves(series, "epoch", "accuracy", lower_is_better=False)
    figure.draw_without_rendering()  # type: ignore[no-untyped-call]
    assert isinstance(figure, Figure)
