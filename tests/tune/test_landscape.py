"""Weights as points: against naive loops, and against the network itself."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from ray_app.methods.combiners import Lazy
from ray_app.tune import landscape
from ray_app.tune.combine import OnRows
from tests.tune.test_combine import Tied, rows, state_of

STATISTICS = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
TIED = {"again.weight", "again.bias"}


def naive(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    total = 0.0
    for name in first:
        if name not in STATISTICS | TIED:
            for a, b in zip(first[name].flatten().tolist(), second[name].flatten().tolist(), strict=True):
                total += (a - b) ** 2
    return total**0.5


@pytest.mark.parametrize("room", [1 << 28, 8 * 4 * 5])
def test_distances_are_those_of_a_naive_loop(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # The second room is of five numbers at a time: tensors are read in several parts.
    monkeypatch.setattr(landscape, "_ROOM", room)
    states = [state_of(seed) for seed in range(4)]
    inner = landscape.products(states[0], states[1:], STATISTICS | TIED)
    expected = [[naive(a, b) for b in states] for a in states]
    np.testing.assert_allclose(landscape.distances(inner), expected, rtol=1e-9, atol=1e-6)


def test_a_plane_s_axes_are_perpendicular_and_in_the_unit_of_the_weights() -> None:
    states = [state_of(seed) for seed in range(4)]
    inner = landscape.products(states[0], states[1:], STATISTICS | TIED)
    plane = landscape.plane_through(inner, 3)
    assert plane is not None
    assert (plane.first, plane.second) == (0, 1)
    places = [(0.0, 0.0), *(plane.place(inner, point)[:2] for point in (0, 1))]
    apart = landscape.distances(inner)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.hypot(*np.subtract(places[i], places[j])) == pytest.approx(apart[i, j])
    for point, shares in ((0, (1, 0)), (1, (0, 1))):
        x, y, off = plane.place(inner, point)
        assert plane.shares(x, y) == pytest.approx(shares, abs=1e-12)
        assert off == pytest.approx(0, abs=1e-6)
    # The third lies off the plane, by what is left of its length.
    x, y, off = plane.place(inner, 2)
    nearest = landscape.on_plane(*states[:3], plane.shares(x, y), STATISTICS)
    assert off == pytest.approx(naive(states[3], nearest), rel=1e-5)
    for dx, dy in ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1)):
        other = landscape.on_plane(*states[:3], plane.shares(x + dx, y + dy), STATISTICS)
        assert naive(states[3], other) > off


def test_its_corners_have_the_losses_of_the_weights_themselves() -> None:
    evaluate = OnRows(Tied(0), rows(1), rows(2, 50), "nll")
    states = [state_of(seed) for seed in range(3)]
    for shares, state in (((0, 0), states[0]), ((1, 0), states[1]), ((0, 1), states[2])):
        point = landscape.on_plane(*states, shares, STATISTICS)
        with_statistics = Lazy(state, lambda name, p=point, s=state: (s if name in STATISTICS else p)[name])
        net = Tied(0)
        net.load_state_dict(state)
        logits = net.eval()(rows(1).inputs).logits
        assert logits is not None
        expected = torch.nn.functional.cross_entropy(logits, rows(1).labels).item()
        kept = landscape.loss_at(evaluate, with_statistics, rows(1).labels, as_they_are=True)
        assert kept == pytest.approx(expected, abs=1e-5)
        # Estimated anew, they no longer hang on whose statistics they were.
        fresh = landscape.loss_at(evaluate, point, rows(1).labels)
        assert fresh == pytest.approx(landscape.loss_at(evaluate, state, rows(1).labels), abs=1e-5)
        assert abs(fresh - expected) > 1e-4


def test_what_lies_on_a_line_makes_no_plane_and_the_next_pair_is_taken() -> None:
    start, other = state_of(0), state_of(2)
    line = [landscape.on_plane(start, state_of(1), other, (share, 0), STATISTICS) for share in (1.0, 0.5)]
    inner = landscape.products(start, [*line, start, other], STATISTICS | TIED)
    assert landscape.plane_through(inner, 3) is None
    plane = landscape.plane_through(inner, 4)
    assert plane is not None
    assert (plane.first, plane.second) == (0, 3)
    assert landscape.plane_through(inner[:1, :1], 1) is None


def test_the_grid_holds_all_places_with_room_around_them() -> None:
    found = landscape.grid([(0, 0), (4, 0), (1, -2)], side=5, margin=0.25)
    assert found.shape == (25, 2)
    assert found.min(0).tolist() == [-1, -3]
    assert found.max(0).tolist() == [5, 1]
    assert all(a[0] < b[0] for a, b in pairwise(found[:5].tolist()))


def test_half_precision_and_whole_numbers_go_through() -> None:
    start = {"w": torch.zeros(3, dtype=torch.bfloat16), "steps": torch.tensor(3)}
    first = {"w": torch.ones(3, dtype=torch.bfloat16), "steps": torch.tensor(9)}
    second = {"w": torch.tensor([1.0, -1.0, 0.0], dtype=torch.bfloat16), "steps": torch.tensor(1)}
    assert landscape.products(start, [first, second]).tolist() == [[3, 0], [0, 2]]
    point = landscape.on_plane(start, first, second, (0.5, 0.5))
    assert point["w"].tolist() == [1, 0, 0.5]
    assert point["w"].dtype == torch.bfloat16
    assert point["steps"] == 3
