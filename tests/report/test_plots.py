"""Plots: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from ray_app.report import plots


def test_bars_have_the_given_lengths_in_the_given_order() -> None:
    axes = plots.bars(
        {"b": 0.5, "a": 0.9, "c": 0.7}, "accuracy", marks={"b": 0.4, "a": 0.8, "c": 0.6}, mark_label="m"
    ).axes[0]
    assert [patch.get_width() for patch in axes.patches] == [0.5, 0.9, 0.7]  # type: ignore[attr-defined]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a", "c"]
    assert axes.yaxis_inverted()
    assert axes.get_xlabel() == "accuracy"


def test_bars_that_are_alike_are_told_apart_and_others_start_at_zero() -> None:
    near = plots.bars({"a": 0.97, "b": 0.98}, "x").axes[0].get_xlim()
    assert 0.95 < near[0] < 0.97
    assert 0.98 < near[1] < 1
    assert plots.bars({"a": 0.1, "b": 0.98}, "x").axes[0].get_xlim()[0] == 0


@pytest.mark.parametrize("values", [{}, {"a": float("nan")}, {"a": 0.0}, {"a": -1.0, "b": 2.0}])
def test_bars_take_any_values(values: dict[str, float]) -> None:
    assert isinstance(plots.bars(values, "x"), Figure)


def test_histograms_are_shares_of_their_own_rows_with_the_tails_in_the_last_bins() -> None:
    groups = {"few": np.array([0.0, 1.0]), "many": np.append(np.linspace(0, 1, 999), 1e6)}
    axes = plots.histograms(groups, "score", 0.5).axes[0]
    low, high = axes.get_xlim()
    assert low < 0.1
    assert high < 2e3 + 1e6
    tops = [patch.get_xy()[:, 1].max() for patch in axes.patches]  # type: ignore[attr-defined]
    assert max(tops) <= 1
    assert [line.get_xdata()[0] for line in axes.lines] == [0.5]  # type: ignore[index]


@pytest.mark.parametrize("scores", [np.zeros(5), np.array([np.inf, 1.0, 2.0]), np.array([np.nan, 1.0])])
def test_histograms_take_constant_and_infinite_scores(scores: np.ndarray) -> None:
    assert isinstance(plots.histograms({"a": scores}, "score"), Figure)


def test_confusion_writes_every_count_that_is_not_zero() -> None:
    matrix = np.array([[5, 1, 0], [0, 7, 0], [2, 0, 0]])
    axes = plots.confusion(matrix, ["a", "b", "c"]).axes[0]
    written = {text.get_position(): int(text.get_text()) for text in axes.texts}
    assert written == {(0, 0): 5, (1, 0): 1, (1, 1): 7, (0, 2): 2}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_reliability_is_the_accuracy_in_each_bin() -> None:
    confidence = np.array([0.05, 0.55, 0.58, 0.95, 1.0, 1.0])
    correct = np.array([True, True, False, True, True, False])
    axes = plots.reliability(confidence, correct).axes[0]
    heights = {round(patch.get_x(), 1): patch.get_height() for patch in axes.patches}  # type: ignore[attr-defined]
    assert heights == {0.0: 1.0, 0.5: 0.5, 0.9: pytest.approx(2 / 3)}
