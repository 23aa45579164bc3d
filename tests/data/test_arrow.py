import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ray_app.data.arrow import concat, length, objects, take, to_batch, to_table

COLUMNS = st.tuples(
    st.sampled_from(["u1", "i8", "f4", "f8", "f2", "?"]), st.lists(st.integers(1, 4), max_size=3)
).flatmap(
    lambda kind: arrays.arrays(
        np.dtype(kind[0]), (5, *kind[1]), elements={"allow_nan": False} if "f" in kind[0] else None
    )
)


@settings(derandomize=True, deadline=None)
@given(COLUMNS)
def test_arrays_of_any_shape_come_back_as_they_were(column: np.ndarray) -> None:
    back = to_batch(to_table({"x": column}))["x"]
    assert back.dtype == column.dtype
    np.testing.assert_array_equal(back, column)


def test_texts_bytes_gaps_and_arrays_of_unequal_shape_come_back() -> None:
    batch = {
        "text": objects(["a", None, "ü"]),
        "bytes": objects([b"", b"\x00", b"x"]),
        "ragged": objects([np.zeros((2, 3), np.uint8), np.ones((1, 1), np.uint8), None]),
    }
    back = to_batch(to_table(batch))
    assert back["text"].tolist() == ["a", None, "ü"]
    assert back["bytes"].tolist() == [b"", b"\x00", b"x"]
    for here, there in zip(back["ragged"], batch["ragged"], strict=True):
        np.testing.assert_array_equal(here, there)


def test_no_rows_keep_their_types() -> None:
    back = to_batch(to_table({"x": np.zeros((0, 3), np.float32), "n": np.zeros(0, np.int64)}))
    assert back["x"].shape == (0, 3)
    assert back["n"].dtype == np.int64


def test_slices_of_a_table_come_back_as_slices() -> None:
    column = np.arange(60).reshape(10, 6)
    np.testing.assert_array_equal(to_batch(to_table({"x": column}).slice(3, 4))["x"], column[3:7])


def test_shapes_that_differ_between_batches_are_joined_row_by_row() -> None:
    joined = concat([{"x": np.zeros((2, 3))}, {"x": np.ones((1, 4))}])["x"]
    assert [row.shape for row in joined] == [(3,), (3,), (4,)]
    assert length(take({"x": joined}, np.array([True, False, True]))) == 2


def test_what_arrow_cannot_hold_is_refused_by_column() -> None:
    with pytest.raises(ValueError, match=r"column 'odd' cannot be written .*leave it out with `keep:`"):
        to_table({"fine": np.zeros(1), "odd": objects([object()])})
    with pytest.raises(ValueError, match="2 nulls"):
        to_batch(pa.table({"n": pa.array([1, None, None])}))
