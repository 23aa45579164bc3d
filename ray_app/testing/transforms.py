"""The contract of transforms."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ray_app.methods.transforms import Transform
from ray_app.testing._expect import expect, permuted, untouched

if TYPE_CHECKING:
    from ray_app.methods import Batch


def check_transform(make: Callable[[], Transform], batch: "Batch") -> None:
    """Check everything that transforms promise.

    Args:
        make: Returns a fresh transform.
        batch: Rows that it can take, at least four, with the columns it reads and `row_id`.

    Raises:
        AssertionError: With a sentence about what does not hold.
    """
    n = len(batch["row_id"])
    transform = make()
    expect(set(transform.columns) <= set(batch), f"the columns {transform.columns} must be in the batch")
    with untouched(batch):
        result = transform(dict(batch))
    expect(
        set(result) == set(batch) | set(transform.adds),
        "columns must pass through, and it must say what it adds",
    )
    rows = {len(values) for values in result.values()}
    expect(len(rows) == 1, f"all columns must have one length, got {sorted(rows)}")
    if transform.multiplies:
        check_parts(batch, result)
    else:
        expect(len(result["row_id"]) <= n, "there must not be more rows than before")
        expect(set(result["row_id"].tolist()) <= set(batch["row_id"].tolist()), "rows must keep their row_id")
    expect(equal(make()(dict(batch)), result), "the same options must give the same bytes")
    order = permuted(n).numpy()
    by_id = {row_id: row for row, row_id in enumerate(result["row_id"].tolist())}
    expect(len(by_id) == len(result["row_id"]), "each row must have a name of its own")
    shuffled = transform({name: values[order] for name, values in batch.items()})
    back = np.array([by_id[row_id] for row_id in shuffled["row_id"].tolist()], dtype=np.int64)
    expected = {name: values[back] for name, values in result.items()}
    expect(equal(shuffled, expected, tolerance=1e-5), "the order of rows must not matter")
    parts = [
        transform({name: values[start : start + 2] for name, values in batch.items()})
        for start in range(0, n, 2)
    ]
    joined = {name: [value for part in parts for value in part[name]] for name in result}
    whole = {name: list(values) for name, values in result.items()}
    expect(equal(joined, whole, tolerance=1e-5), "the split into batches must not matter")
    nothing = transform({name: values[:0] for name, values in batch.items()})
    expect(len(nothing["row_id"]) == 0, "no rows must give no rows")


def check_parts(batch: "Batch", result: "Batch") -> None:
    """Check the names of rows that became several: in order, and numbered from 0."""
    parts: dict[str, list[str]] = {}
    for row_id in result["row_id"].tolist():
        parent, slash, number = str(row_id).rpartition("/")
        expect(slash and number.isdecimal(), f"a part's row_id must be <row_id>/<k>, got {row_id!r}")
        parts.setdefault(parent, []).append(number)
    parents = [str(row_id) for row_id in batch["row_id"].tolist()]
    expect(
        list(parts) == [name for name in parents if name in parts], "parts must keep the order of their rows"
    )
    numbered = all(numbers == [str(k) for k in range(len(numbers))] for numbers in parts.values())
    expect(numbered, "a row's parts must follow each other, numbered from 0")


def equal(a: object, b: object, tolerance: float = 0.0) -> bool:
    """Return whether two batches, columns or values are alike: exactly, or floats within a tolerance."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key], tolerance) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y, tolerance) for x, y in zip(a, b, strict=True))
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if x.dtype == object and x.ndim:
        return all(equal(one, other, tolerance) for one, other in zip(x, y, strict=True))
    if x.dtype.kind == "f":
        return bool(np.allclose(x, y, rtol=0, atol=tolerance, equal_nan=True))
    # Rounding to bytes may tip over where floats differ in the last bit.
    if tolerance and x.dtype == np.uint8:
        return bool((np.abs(x.astype(int) - y.astype(int)) <= 1).all())
    return bool(np.array_equal(x, y))
