"""From a table of Arrow to rows: those with a value missing or unreadable are set aside."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ray_app.data.arrow import nulls, objects, to_batch
from ray_app.data.sources import Read, Rejected


def rows_of(table: pa.Table, names: Sequence[str]) -> Read:
    """Return a table's rows.

    A null is rejected where an array cannot hold it: among whole numbers and lists of one length.

    Args:
        table: Its column `row_id`, if it has one, names the rows.
        names: Their names otherwise.
    """
    whole = {f.name for f in table.schema if _needs_values(f.type)}
    own = table.column("row_id").to_pylist() if "row_id" in table.column_names else names
    row_ids = objects([str(name) for name in own])
    reasons = {int(row): _missing(table, whole, int(row)) for row in np.flatnonzero(nulls(table, whole))}
    reasons |= _undecodable(table)
    bad = np.isin(np.arange(table.num_rows), list(reasons))
    if bad.any():
        table = table.filter(pa.array(~bad))
    batch = to_batch(table.drop_columns(["row_id"]) if "row_id" in table.column_names else table)
    rejected = [Rejected(row_ids[row], reasons[row]) for row in sorted(reasons)]
    return Read({"row_id": row_ids[~bad], **batch}, rejected)


def _undecodable(table: pa.Table) -> dict[int, str]:
    """Rows with a text that is no UTF-8: Arrow believes what the file says."""
    reasons: dict[int, str] = {}
    for name in table.column_names:
        column = table.column(name)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            for row, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
                try:
                    _ = value is None or value.decode()
                except UnicodeDecodeError as error:
                    reasons[row] = f"{name}: not UTF-8 (byte {value[error.start]:#04x} at {error.start})"
    return reasons


def _needs_values(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_fixed_size_list(kind)


def _missing(table: pa.Table, columns: set[str], row: int) -> str:
    names = [name for name in table.column_names if name in columns and not table.column(name)[row].is_valid]
    return f"no value in {', '.join(names)}"
