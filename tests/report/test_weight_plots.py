"""Plots of weights: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib.image import AxesImage

from ray_app.report.weight_plots import Mark, agreement, matrix, plane


def test_a_plane_has_its_marks_where_they_are_and_says_their_losses() -> None:
    x, y = np.linspace(-1, 2, 4), np.linspace(0, 2, 3)
    loss = np.add.outer(y, x**2) + 0.5
    marks = [Mark("start", "start", 0, 0, 0.5), Mark("greedy", "soup", 1.5, 1, 3.75)]
    axes = plane(x, y, loss, marks).axes[0]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines] == [(0, 0), (1.5, 1)]  # type: ignore[index]
    assert [text.get_text() for text in axes.texts] == ["start\n0.500", "greedy\n3.750"]
    assert axes.get_aspect() == 1


@pytest.mark.parametrize(
    "loss",
    [
        np.full((3, 4), 2.0),
        np.full((3, 4), np.nan),
        np.where(np.eye(3, 4) > 0, np.inf, 1e3 ** np.eye(3, 4, 1)),
    ],
)
def test_a_plane_takes_flat_missing_and_exploding_losses(loss: np.ndarray) -> None:
    figure = plane(np.arange(4.0), np.arange(3.0), loss, [])
    figure.draw_without_rendering()  # type: ignore[no-untyped-call]


def test_a_small_matrix_has_its_numbers_and_a_large_one_only_shades() -> None:
    values = np.array([[0, 1.25], [1.25, 0]])
    axes = matrix(values, ["a", "b"], "distance").axes[0]
    assert [text.get_text() for text in axes.texts] == ["0", "1.2", "1.2", "0"]
    (image,) = axes.get_images()
    assert isinstance(image, AxesImage)
    np.testing.assert_array_equal(image.get_array(), values)  # type: ignore[arg-type]
    large = matrix(np.ones((29, 29)), [str(i) for i in range(29)], "distance").axes[0]
    assert not large.texts
    assert [label.get_text() for label in large.get_yticklabels()] == [str(i) for i in range(29)]


def test_agreement_names_the_pairs_that_are_farthest_off_the_diagonal() -> None:
    axes = agreement([0.1, 0.2, 0.3, -0.1], [0.1, 0.5, 0.31, -0.2], ["a", "b", "c", "d"], "nats").axes[0]
    assert [text.get_text() for text in axes.texts] == ["b", "d"]
    points = next(line for line in axes.lines if line.get_marker() == "o")
    assert list(points.get_xdata()) == [0.1, 0.2, 0.3, -0.1]  # type: ignore[arg-type]
    assert list(points.get_ydata()) == [0.1, 0.5, 0.31, -0.2]  # type: ignore[arg-type]
    assert axes.get_xlim() == axes.get_ylim()


def test_agreement_takes_one_pair_of_nothing() -> None:
    figure = agreement([0.0], [0.0], ["a"], "nats")
    figure.draw_without_rendering()  # type: ignore[no-untyped-call]
