"""The curve of an intrinsic dimension, on metrics that are known."""

import math

import pytest

from ray_app.methods.diagnostics.intrinsic_dimension import IntrinsicDimension


def test_the_smallest_dimension_that_is_enough() -> None:
    tried = []

    def train(d: int, lr: float, seed: int) -> float:
        tried.append((d, lr, seed))
        return (1 - 2.0**-d) * (1.0 if lr == 0.3 else 0.5) + (0.01 if seed else -0.01)

    report = IntrinsicDimension(dims=[1, 2, 4, 8], lrs=[0.1, 0.3], seeds=[0, 1]).report(train, full=1.0)
    assert len(tried) == len(set(tried)) == 16
    assert report["value"] == pytest.approx([0.5, 0.75, 0.9375, 1 - 2**-8])
    assert report["lr"] == [0.3] * 4
    assert report["dim"] == [1, 2, 4, 8]
    assert report["dimension"] == 4
    # Of another network's full metric, and of none that can be reached.
    one = IntrinsicDimension(dims=[1, 2], lrs=[0.3], fraction=0.5)
    assert one.reached([0.5, 0.75], full=1.0) == 1
    assert one.reached([0.5, 0.75], full=1.2) == 2
    assert one.reached([0.5, 0.75], full=1.6) == math.inf


def test_where_it_is_reached_first_counts_though_it_falls_again() -> None:
    diagnostic = IntrinsicDimension(dims=[1, 2, 3], lrs=[1.0])
    assert diagnostic.reached([0.5, 0.9, 0.8], full=1.0) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": [], "lrs": [1.0]}, r"dims must ascend from 1 or more, got \[\]"),
        ({"dims": [4, 2], "lrs": [1.0]}, r"got \[4, 2\]"),
        ({"dims": [0, 2], "lrs": [1.0]}, r"got \[0, 2\]"),
        ({"dims": [2], "lrs": []}, "at least one of lrs"),
        ({"dims": [2], "lrs": [1.0], "fraction": 90}, "fraction must be in 0..1, got 90"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"intrinsic_dimension: .*{message}"):
        IntrinsicDimension(**options)  # type: ignore[arg-type]
