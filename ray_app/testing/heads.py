"""The contract of heads."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ray_app.errors import NotFittedError
from ray_app.methods.heads import Head
from ray_app.testing._expect import (
    expect,
    expect_close,
    expect_raises,
    permuted,
    through_safetensors,
    untouched,
)
from ray_app.testing._rows import Rows, hard, rows


def check_head(make: Callable[[], Head], draw: Rows = rows) -> None:
    """Check everything that heads promise.

    Args:
        make: Returns a fresh head.
        draw: Returns features that it can read, with their labels.

    Raises:
        AssertionError: With a sentence about what does not hold.
    """
    check_refusals(make, draw)
    check_answers(make, draw)
    check_state(make, draw)
    check_hard_numbers(make, draw)


def check_refusals(make: Callable[[], Head], draw: Rows = rows) -> None:
    """Check what a head must not accept."""
    features, labels = draw(30, 0)
    expect_raises(
        NotFittedError, lambda: make().predict_proba(features), "an unfitted head must raise NotFittedError"
    )
    expect_raises(
        ValueError, lambda: make().fit(features[:0], labels[:0]), "fit on no rows must raise ValueError"
    )
    for what, bad in {
        "too few labels": labels[:-1],
        "fractional labels": labels.float(),
        "negative labels": labels - 1,
    }.items():
        expect_raises(ValueError, partial(make().fit, features, bad), f"{what} must raise ValueError")
    spoiled = features.map(lambda x: x.clone().index_fill_(0, torch.tensor([2]), torch.nan))
    expect_raises(
        ValueError, lambda: make().fit(spoiled, labels), "rows that are not finite must raise ValueError"
    )
    wider = features.map(lambda x: torch.cat([x, x[:, :1]], 1))
    fitted = make().fit(features, labels)
    expect_raises(ValueError, lambda: fitted.predict_proba(wider), "another width must raise ValueError")


def check_answers(make: Callable[[], Head], draw: Rows = rows) -> None:
    """Check the shape, type and range of probabilities, and that rows do not see one another."""
    features, labels = draw(60, 0)
    test, truth = draw(33, 1)
    head = make()
    with untouched(features, labels, test):
        expect(head.fit(features, labels) is head, "fit must return the head")
        proba = head.predict_proba(test)
    _check_proba(proba, len(test), 3)
    accuracy = float((proba.argmax(1) == truth).float().mean())
    expect(
        accuracy > 0.5,
        f"three easy classes must be told apart better than by chance; accuracy {accuracy:.2f}",
    )
    expect(head.predict_proba(test[:0]).shape == (0, 3), "no rows must give [0, c]")
    order = permuted(len(test))
    expect_close(head.predict_proba(test[order]), proba[order], "the order of rows must not matter")
    parts = torch.cat([head.predict_proba(test[i : i + 7]) for i in range(0, len(test), 7)])
    expect_close(parts, proba, "the split into batches must not matter")
    with torch.inference_mode():
        expect_close(head.predict_proba(test), proba, "inference mode must not matter")
    part = labels != 1
    without = make().fit(features[part], labels[part]).predict_proba(test)
    expect(without.shape[1] == 3 and (without[:, 1] == 0).all(), "a class never seen must have probability 0")


def check_state(make: Callable[[], Head], draw: Rows = rows) -> None:
    """Check that what was learned is in the state, all of it, and that fit starts anew."""
    features, labels = draw(60, 0)
    other, other_labels = draw(45, 5)
    head = make().fit(features, labels)
    proba = head.predict_proba(other)
    loaded = through_safetensors(head, make())
    expect(
        torch.equal(loaded.predict_proba(other), proba), "a state through safetensors must give equal bits"
    )
    expect(torch.equal(copy.deepcopy(head).predict_proba(other), proba), "a copy must give equal bits")
    refitted = through_safetensors(head, make().fit(other, other_labels))
    expect(torch.equal(refitted.predict_proba(other), proba), "a state must replace what was learned before")
    again = head.fit(other, other_labels).predict_proba(features)
    fresh = make().fit(other, other_labels).predict_proba(features)
    expect(torch.equal(again, fresh), "fit must forget; the same rows must give the same bits")


def check_hard_numbers(make: Callable[[], Head], draw: Rows = rows) -> None:
    """Check that probabilities are probabilities whatever the rows."""
    for what, (features, labels) in hard(draw).items():
        try:
            proba = make().fit(features, labels).predict_proba(features)
            _check_proba(proba, len(features), int(labels.max()) + 1)
        except Exception as error:
            raise AssertionError(f"{what}: {error}") from error


def _check_proba(proba: Tensor, n: int, c: int) -> None:
    expect(proba.shape == (n, c), f"predict_proba must return [{n}, {c}], got {list(proba.shape)}")
    expect(proba.dtype == torch.float32, f"predict_proba must return float32, got {proba.dtype}")
    expect((proba >= 0).all() and (proba <= 1).all(), "probabilities must be in 0..1")
    expect_close(proba.sum(1), torch.ones(n), "each row must sum to 1")
