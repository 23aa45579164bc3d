"""What an encoder reads of each row, beside the row: made on CPUs ahead of the model, gone before writing."""

from typing import TYPE_CHECKING, cast

from ray_app import registry
from ray_app.data.arrow import length, take
from ray_app.data.rows import reject
from ray_app.data.sources import Read
from ray_app.errors import DataError, SpecError

if TYPE_CHECKING:
    from ray_app.methods import Batch
    from ray_app.methods.encoders import Encoder, Preparation
    from ray_app.spec import Method

PREFIX = "prepared."
"""What the names of such columns begin with."""


def prepare(read: Read, preparation: "Preparation", *, drop: bool = False) -> Read:
    """Add what an encoder reads of each row; a row that it cannot read is rejected.

    Args:
        read: Rows.
        preparation: The encoder's.
        drop: Leave out the column that was read, which nobody needs from here on.

    Raises:
        DataError: The column is missing.
    """
    if preparation.column not in read.batch:
        raise DataError(
            f"the encoder reads the column {preparation.column!r}, which is not there"
            f" (columns: {', '.join(read.batch)}); map it with `columns:`"
        )
    try:
        made = preparation.prepare(read.batch)
    except ValueError:
        # One row spoils the batch; which one, only trying them alone tells.
        reasons: dict[int, str] = {}
        for row in range(length(read.batch)):
            try:
                preparation.prepare(take(read.batch, slice(row, row + 1)))
            except ValueError as error:
                reasons[row] = str(error).removeprefix("row 0: ")
        if not reasons:
            raise
        read = reject(read, reasons)
        made = preparation.prepare(read.batch)
    rest = {name: column for name, column in read.batch.items() if not drop or name != preparation.column}
    return Read({**rest, **{f"{PREFIX}{name}": column for name, column in made.items()}}, read.rejected)


def prepared_columns(batch: "Batch", *, keep: bool) -> "Batch":
    """Return only what an encoder reads, under its own names (keep), or everything else."""
    if keep:
        return {
            name.removeprefix(PREFIX): column for name, column in batch.items() if name.startswith(PREFIX)
        }
    return {name: column for name, column in batch.items() if not name.startswith(PREFIX)}


def light(encoder: "Method | None", bundle: str | None) -> "Preparation | None":
    """Return the preparation of an encoder, or of a bundle's members, without weights; None: it has none.

    Raises:
        SpecError: The encoder's options are refused.
        BundleError: The bundle cannot be read.
    """
    if bundle is not None:
        from ray_app import bundle as bundles

        loaded = bundles.load(bundle)
        name, part = next(iter(loaded.manifest.members.items()))
        method, assets = part.method, {"assets": loaded.path / "assets" / name}
    elif encoder is not None:
        method, assets = encoder, {}
    else:
        return None
    try:
        cls = cast("type[Encoder]", registry.load("encoders", method.name))
        taken = {
            key: value for key, value in assets.items() if key in registry.options("encoders", method.name)
        }
        return cls.light(**method.options, **taken)
    except (ValueError, TypeError) as error:
        message = str(error)
        prefix = "" if message.startswith(method.name) else f"encoders/{method.name}: "
        raise SpecError(f"{prefix}{message}") from error


__all__ = ["PREFIX", "light", "prepare", "prepared_columns"]
