import numpy as np
import pyarrow as pa
import pytest

from ray_app.data.arrow import objects
from ray_app.data.payload import Failed, Work, pack, unpack
from ray_app.data.sources import Rejected, Unit
from ray_app.errors import BundleError, DataError, RayAppError, RunError, SpecError

UNIT = Unit("u-1", "a/b.parquet", 3, 7, "ff00")


def test_units_travel_as_one_row_each_and_arrive_whole() -> None:
    batch = {"row_id": objects(["a", "b"]), "image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)}
    works = [Work(UNIT, batch, [Rejected("c", "no ünit")]), Work(UNIT, {})]
    table = pa.concat_tables([pack(work) for work in works])
    assert table.num_rows == 2
    first, second = (work for work in unpack(table) if isinstance(work, Work))
    assert (first.unit, first.rejected) == (UNIT, works[0].rejected)
    for name in batch:
        np.testing.assert_array_equal(first.batch[name], batch[name])
    assert len(second) == 0


@pytest.mark.parametrize("error", [SpecError("a: b"), DataError("c"), BundleError("d"), RunError("e")])
def test_errors_travel_with_their_class_and_line(error: RayAppError) -> None:
    (failed,) = unpack(pack(Failed.of(error)))
    assert isinstance(failed, Failed)
    assert type(failed.error()) is type(error)
    assert str(failed.error()) == str(error)
