"""Real files of another hand: photographs, sounds and texts in Parquet."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from ray_app import registry
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


def test_sounds_in_parquet_are_decoded_whether_files_or_samples(reference_data: Path) -> None:
    source = {"name": "parquet", "path": str(reference_data / "esc_subset" / "clips.parquet")}
    content = {"name": "esc", "source": source, "columns": {"audio": "flac"}, "unit_rows": 16}
    clips = open_dataset(parse(content, DatasetSpec, "test")).read(limit=10)
    assert [len(waveform) for waveform in clips["audio"]] == clips["n_samples"].tolist()
    assert clips["sample_rate"].tolist() == [16_000] * 10
    assert all(0.001 < abs(waveform).max() <= 1 for waveform in clips["audio"])

    source = {"name": "parquet", "path": str(reference_data / "fsdd" / "test.parquet")}
    digits = open_dataset(parse({"name": "fsdd", "source": source}, DatasetSpec, "test")).read(limit=10)
    assert all(waveform.dtype == "float32" and abs(waveform).max() <= 1 for waveform in digits["audio"])
    assert digits["sample_rate"].tolist() == [8000] * 10


def test_every_table_of_the_reference_data_is_read_whole(reference_data: Path) -> None:
    for path in sorted(reference_data.rglob("*.parquet")):
        if path.stat().st_size > 2**20:
            continue
        source = registry.build("sources", "parquet", {"path": str(path)})
        reads = [read for _, read in source.stream(source.units(1000))]
        assert sum(len(read.batch["row_id"]) for read in reads) == pq.read_metadata(path).num_rows, path
        assert not any(read.rejected for read in reads), path


def test_a_split_by_speaker_and_by_a_column(reference_data: Path) -> None:
    source = {"name": "parquet", "path": str(reference_data / "fsdd" / "train.parquet")}
    content = {
        "name": "fsdd",
        "source": source,
        "split_key": "speaker",
        "splits": {"train": 0.6, "test": 0.4},
    }
    fsdd = open_dataset(parse(content, DatasetSpec, "test"))
    speakers = [set(fsdd.read(split)["speaker"]) for split in ("train", "test")]
    assert not speakers[0] & speakers[1]
    assert len(speakers[0] | speakers[1]) == 6

    path = str(reference_data / "sms_spam" / "all.parquet")
    source = {"name": "parquet", "path": path}
    content = {"name": "sms", "source": source, "split_column": "split", "splits": ["train", "test"]}
    sms = open_dataset(parse(content, DatasetSpec, "test"))
    counts = Counter(pq.read_table(path, columns=["split"]).column("split").to_pylist())
    assert {split: len(sms.read(split)["row_id"]) for split in counts} == counts
