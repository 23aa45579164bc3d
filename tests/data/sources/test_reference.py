"""Real files of another hand: encoded photographs in Parquet."""

from pathlib import Path

from ray_app.data.dataset import open_dataset
from ray_app.spec import parse
from ray_app.spec.dataset import DatasetSpec


def test_photographs_in_parquet_are_decoded_with_their_labels(reference_data: Path) -> None:
    source = {"name": "parquet", "path": str(reference_data / "cifar10" / "test.parquet")}
    rows = open_dataset(parse({"name": "cifar10", "source": source}, DatasetSpec, "test")).read(limit=50)
    assert rows["image"].shape == (50, 32, 32, 3)
    assert rows["image"].std() > 20
    assert set(rows["label"].tolist()) <= set(range(10))
    assert len(set(rows["row_id"])) == 50
