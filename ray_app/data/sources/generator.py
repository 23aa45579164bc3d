"""Rows 0..rows of an endless synthetic dataset, addressed by (seed, index): any machine can make any part."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np

from ray_app import registry
from ray_app.data.sources import Read, Source, Unit, digest, ranges
from ray_app.methods.generators import Generator as Endless


class Generator(Source):
    """Makes as many rows of a generator as asked for.

    Args:
        generator: Its name, or its name and options: `{name: …, option: value}`.
        rows: How many.
        seed: Of the endless dataset.
    """

    def __init__(self, *, generator: str | Mapping[str, Any], rows: int, seed: int = 0) -> None:
        options = dict(generator) if isinstance(generator, Mapping) else {"name": generator}
        if not isinstance(name := options.pop("name", None), str):
            raise ValueError(f"generator: `generator` needs a `name`, got {generator!r}")
        if not isinstance(rows, int) or rows < 1:
            raise ValueError(f"generator: rows must be at least 1, got {rows!r}")
        registry.check("generators", name, options)
        self.name, self.options = name, options
        self.rows, self.seed = rows, seed

    @cached_property
    def columns(self) -> Sequence[str]:
        """The columns of its first row."""
        return list(self._generator.at(range(1), self.seed))

    @property
    def labels(self) -> Sequence[str]:
        """What the generator calls its classes, where it has any."""
        return list(getattr(self._generator, "labels", ()))

    def fingerprint(self) -> str:
        """Return a hash of the generator's name and options, the seed and the number of rows."""
        return digest(self.name, self.options, self.rows, self.seed)

    def units(self, rows_per_unit: int) -> list[Unit]:
        """Divide the rows."""
        # Without the number of rows: asking for more of them later does not change the ones before.
        return ranges(self.name, self.rows, rows_per_unit, digest(self.name, self.options, self.seed))

    def read(self, unit: Unit) -> Read:
        """Make a unit's rows."""
        row_ids = [f"{self.name}#{self.seed},{index}" for index in range(unit.start, unit.stop)]
        batch = self._generator.at(range(unit.start, unit.stop), self.seed)
        # NumPy's own texts have the width of the longest one here, which would differ between units.
        plain = {
            name: column.astype(object) if column.dtype.kind == "U" else column
            for name, column in batch.items()
        }
        return Read({"row_id": np.array(row_ids, dtype=object), **plain})

    def __getstate__(self) -> dict[str, Any]:
        """Travel as a name and options; the worker constructs its own."""
        return {key: value for key, value in vars(self).items() if key != "_generator"}

    @cached_property
    def _generator(self) -> Endless:
        return cast(Endless, registry.build("generators", self.name, self.options))
