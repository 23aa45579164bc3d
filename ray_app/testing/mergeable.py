"""The contract of methods that learn from sums: merging equals fitting at once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ray_app.methods import Mergeable
from ray_app.methods.encoders import Features
from ray_app.testing._expect import expect_close, permuted, untouched
from ray_app.testing._rows import Rows, rows

# Of answers, not of sums: probabilities and scores of equal sums differ by rounding.
_TOLERANCE = 1e-5


def check_mergeable(make: Callable[[], Any], draw: Rows = rows) -> None:
    """Check that any division of the rows, in any order, gives what one fit on all gives.

    Args:
        make: Returns a fresh head or detector that has partial_fit and merge.
        draw: Returns features that it can read, with their labels.

    Raises:
        AssertionError: With a sentence about what does not hold.
    """
    features, labels = draw(60, 0)
    for cuts in ([], [1], [30], [2, 2, 59], [10, 20, 30, 40, 50]):
        for seed in (None, 1):
            order = torch.arange(60) if seed is None else permuted(60, seed)
            check_merge(make, features[order], labels[order], cuts)
    by_class = labels.argsort(stable=True)
    check_merge(make, features[by_class], labels[by_class], [20, 40])
    far = features.map(lambda x: x + 1e3)
    check_merge(make, far, labels, [7, 31])
    check_nothing_changes_nothing(make, draw)


def check_merge(make: Callable[[], Any], features: Features, labels: Tensor, cuts: Sequence[int]) -> None:
    """Check one division: the parts between the cuts, fitted apart and merged, or learned in turn.

    Args:
        make: Returns a fresh method.
        features: n rows.
        labels: int64 [n].
        cuts: Where to cut, ascending, in 0..n; empty parts are parts.
    """
    whole = make().fit(features, labels)
    spans = list(zip([0, *cuts], [*cuts, len(features)], strict=True))
    merged, in_turn = make(), make()
    for start, end in spans:
        part = (features[start:end], labels[start:end])
        other = make().partial_fit(*part)
        with untouched(other.state_dict(), *part):
            merged.merge(other)
            in_turn.partial_fit(*part)
    expected = answer(whole, features)
    expect_close(
        answer(merged, features),
        expected,
        f"merging parts {spans} must equal one fit",
        _TOLERANCE,
        _TOLERANCE,
    )
    expect_close(
        answer(in_turn, features),
        expected,
        f"learning {spans} in turn must equal one fit",
        _TOLERANCE,
        _TOLERANCE,
    )


def check_nothing_changes_nothing(make: Callable[[], Any], draw: Rows = rows) -> None:
    """Check that no rows, and a method that saw none, change nothing."""
    features, labels = draw(30, 0)
    method = make().fit(features, labels)
    expected = answer(method, features)
    method.partial_fit(features[:0], labels[:0])
    expect_close(answer(method, features), expected, "partial_fit on no rows must change nothing", 0, 0)
    method.merge(make())
    expect_close(answer(method, features), expected, "merging one that saw no rows must change nothing", 0, 0)
    expect_close(answer(make().merge(method), features), expected, "an empty one must become what it merges")


def answer(method: Any, features: Features) -> Tensor:
    """Return what a head or a detector says."""
    return method.predict_proba(features) if hasattr(method, "predict_proba") else method.score(features)


def is_mergeable(method: object) -> bool:
    """Return whether a method says that it learns from sums."""
    return isinstance(method, Mergeable)
