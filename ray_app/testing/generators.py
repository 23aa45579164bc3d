"""The contract of generators."""

from collections.abc import Callable

import numpy as np

from ray_app.methods.generators import Generator
from ray_app.testing._expect import expect, untouched
from ray_app.testing.transforms import equal


def check_generator(make: Callable[[], Generator]) -> None:
    """Check everything that generators promise.

    Args:
        make: Returns a fresh generator.

    Raises:
        AssertionError: With a sentence about what does not hold.
    """
    with untouched():
        batch = make().at(range(12), seed=3)
    expect(batch, "rows must have columns")
    expect({len(values) for values in batch.values()} == {12}, "each column must have a value for each row")
    whole = {name: list(values) for name, values in batch.items()}
    other = make()
    parts = [other.at(range(8, 12), 3), other.at(range(8), 3)]
    joined = {name: [*parts[1][name], *parts[0][name]] for name in batch}
    expect(equal(joined, whole), "a row must depend on its seed and index alone")
    expect(not equal(make().at(range(12), seed=4), batch), "another seed must give other rows")
    expect(
        not equal([column[0] for column in whole.values()], [column[1] for column in whole.values()]),
        "rows must differ from one another",
    )
    first = make().sample(5, np.random.default_rng(1))
    expect(
        equal(make().sample(5, np.random.default_rng(1)), first),
        "one generator state must give the same bytes",
    )
    rng = np.random.default_rng(1)
    make().sample(5, rng)
    expect(not equal(make().sample(5, rng), first), "sampling on must give new rows")
