"""Between a batch (column → NumPy array) and Arrow, without loss, and readable without ray-app.

bool, numbers [n]                  the Arrow type of the same name
numbers [n, …] of one shape        fixed-size list; the shape is in the field's metadata
objects: str, bytes                string, binary
objects: arrays [t] of one type    list
objects: arrays of unequal shapes  struct {data: list, shape: list}
"""

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from ray_app.methods import Batch

_SHAPE = b"shape"


def to_table(batch: "Batch") -> pa.Table:
    """Return a batch as a table; columns keep their order.

    Raises:
        ValueError: A column holds what Arrow has no type for; the message names it.
    """
    fields, arrays = [], []
    for name, column in batch.items():
        try:
            array, metadata = _to_arrow(np.asarray(column))
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise ValueError(
                f"column {name!r} cannot be written as Parquet ({error}); leave it out with `keep:`"
            ) from error
        fields.append(pa.field(name, array.type, metadata=metadata))
        arrays.append(array)
    return pa.table(arrays, schema=pa.schema(fields))


def to_batch(table: pa.Table) -> "Batch":
    """Return a table as a batch. Nulls become NaN in floats and None in objects.

    Raises:
        ValueError: A column of whole numbers or of fixed-size lists has nulls; `nulls` says where.
    """
    return {field.name: _to_numpy(table.column(i), field) for i, field in enumerate(table.schema)}


def nulls(table: pa.Table, columns: set[str]) -> np.ndarray:
    """Return a mask [n]: rows of which one of these columns is null."""
    mask = np.zeros(table.num_rows, dtype=bool)
    for name in table.column_names:
        if name in columns and table.column(name).null_count:
            mask |= table.column(name).is_null().to_numpy()
    return mask


def concat(batches: "list[Batch]") -> "Batch":
    """Join batches with the same columns; columns whose rows differ in shape become object arrays."""
    if not batches:
        return {}
    if len(batches) == 1:
        return batches[0]
    return {name: _concat([batch[name] for batch in batches]) for name in batches[0]}


def take(batch: "Batch", rows: np.ndarray | slice) -> "Batch":
    """Return chosen rows: a mask, indices, or a slice."""
    return {name: column[rows] for name, column in batch.items()}


def length(batch: "Batch") -> int:
    """Return n."""
    return len(next(iter(batch.values()))) if batch else 0


def nbytes(batch: "Batch") -> int:
    """Return about how much memory a batch holds."""
    return sum(
        sum(_size(value) for value in column) if column.dtype == object else column.nbytes
        for column in batch.values()
    )


def stacked(values: list[Any]) -> np.ndarray:
    """Return arrays as one array [n, …] where their shapes and types agree, else as an object array [n]."""
    kinds = {(v.shape, v.dtype) if isinstance(v, np.ndarray) else None for v in values}
    return np.stack(values) if len(kinds) == 1 and None not in kinds else objects(values)


def objects(values: list[Any]) -> np.ndarray:
    """Return an object array [n]; NumPy's own constructor would try to look inside of the values."""
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def _to_arrow(column: np.ndarray) -> tuple[pa.Array, dict[bytes, bytes] | None]:
    if column.dtype == object:
        return _objects_to_arrow(column), None
    if column.dtype.kind == "U":
        return pa.array(column.tolist(), pa.string()), None
    if column.ndim == 1:
        return pa.array(np.ascontiguousarray(column)), None
    shape = column.shape[1:]
    flat = pa.array(np.ascontiguousarray(column).reshape(-1))
    size = int(np.prod(shape))
    array = pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(pa.field("item", flat.type), size))
    return array, {_SHAPE: json.dumps(shape).encode()}


def _objects_to_arrow(column: np.ndarray) -> pa.Array:
    first = next((value for value in column if value is not None), None)
    if _are_vectors(column):
        offsets = np.concatenate([[0], np.cumsum([len(value) for value in column])])
        # Large: a unit of waveforms may have more values than 32 bits count.
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(np.concatenate(column)))
    if isinstance(first, np.ndarray):
        item = pa.array(first.reshape(-1)[:0]).type
        rows = [
            None
            if value is None
            else {"data": np.ascontiguousarray(value).reshape(-1), "shape": list(value.shape)}
            for value in column
        ]
        return pa.array(rows, pa.struct([("data", pa.list_(item)), ("shape", pa.list_(pa.int32()))]))
    return pa.array(column.tolist(), pa.string() if first is None else None)


def _are_vectors(column: np.ndarray) -> bool:
    first = column[0] if len(column) else None
    return isinstance(first, np.ndarray) and all(
        isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == first.dtype for value in column
    )


def _to_numpy(column: pa.ChunkedArray, field: pa.Field) -> np.ndarray:
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        return _fixed(column, field)
    if pa.types.is_struct(kind) and {f.name for f in kind} == {"data", "shape"}:
        return objects(
            [
                None if row is None else _shaped(row, kind.field("data").type.value_type)
                for row in column.to_pylist()
            ]
        )
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if pa.types.is_primitive(kind.value_type):
            return objects([row for chunk in column.chunks for row in _vectors(chunk)])
        return objects(column.to_pylist())
    if pa.types.is_dictionary(kind):
        return _to_numpy(column.cast(kind.value_type), field)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        if column.null_count:
            raise ValueError(f"column {field.name!r} has {column.null_count} nulls among whole numbers")
        return column.to_numpy()
    if pa.types.is_floating(kind):
        return column.to_numpy()
    return objects(column.to_pylist())


def _vectors(chunk: Any) -> list[np.ndarray | None]:
    """Views of a list array's rows."""
    offsets = chunk.offsets.to_numpy()
    values = chunk.values.to_numpy(zero_copy_only=False)
    rows: list[np.ndarray | None] = [values[start:stop] for start, stop in pairwise(offsets.tolist())]
    for row in np.flatnonzero(chunk.is_null().to_numpy(zero_copy_only=False)) if chunk.null_count else []:
        rows[row] = None
    return rows


def _fixed(column: pa.ChunkedArray, field: pa.Field) -> np.ndarray:
    if column.null_count:
        raise ValueError(f"column {field.name!r} has {column.null_count} nulls among lists of one length")
    metadata = field.metadata or {}
    shape = json.loads(metadata[_SHAPE]) if _SHAPE in metadata else [column.type.list_size]
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], column.type)
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(column), *shape)


def _shaped(row: dict[str, Any], item: pa.DataType) -> np.ndarray:
    return np.asarray(row["data"], dtype=item.to_pandas_dtype()).reshape(row["shape"])


def _concat(columns: list[np.ndarray]) -> np.ndarray:
    kinds = {(column.dtype == object, column.shape[1:]) for column in columns}
    if len(kinds) == 1:
        return np.concatenate(columns)
    return objects([value for column in columns for value in column])


def _size(value: Any) -> int:
    return int(getattr(value, "nbytes", 0)) or (len(value) if isinstance(value, (str, bytes)) else 64)
