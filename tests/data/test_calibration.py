import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_app.data.calibration import calibrated, is_open, usual
from ray_app.data.encoding import Encoding, Settings
from ray_app.data.sources import Read
from ray_app.methods.encoders import Encoder, Features, Inputs, Preparation
from ray_app.spec.dataset import Compute
from ray_app.storage import Place


class Words(Preparation):
    """Rows of unequal lengths, prepared apart from the network."""

    column = "text"

    def prepare(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        ids = np.empty(len(batch["text"]), dtype=object)
        ids[:] = [np.array([len(word) for word in text.split()], dtype=np.int32) for text in batch["text"]]
        return {"ids": ids}

    def lengths(self, prepared: dict[str, np.ndarray]) -> np.ndarray:
        return np.array([len(ids) for ids in prepared["ids"]])

    def collate(self, prepared: dict[str, np.ndarray]) -> Inputs:
        width = max(map(len, prepared["ids"]))
        rows = [np.pad(ids, (0, width - len(ids))) for ids in prepared["ids"]]
        return torch.from_numpy(np.stack(rows))


class Sums(Encoder):
    """Counts and sums; slow, or wrong, in one of the two dtypes."""

    modality, dim, low_precision = "text", 2, True

    def __init__(self, *, slow: torch.dtype = torch.float32, wrong: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.2345678, 2.0]))
        self.preparation = Words()
        self.slow, self.wrong = slow, wrong
        self.widths: list[tuple[int, int]] = []

    def forward(self, inputs: Inputs, want: Any = ()) -> Features:
        assert isinstance(inputs, torch.Tensor)
        self.widths.append((len(inputs), inputs.shape[1]))
        for _ in range(4000 if self.weight.dtype == self.slow else 1):
            values = inputs.float().sum(1)
        pooled = torch.stack([values, (inputs > 0).sum(1).float()], 1)
        if self.wrong and self.weight.dtype == torch.bfloat16:
            pooled = pooled.flip(1) * torch.tensor([1.0, -1.0])
        return Features(pooled * self.weight.float())

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        return {}, {}


def texts(n: int = 60) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    text = np.array([" ".join(["ab"] * int(count)) for count in rng.integers(1, 40, n)], dtype=object)
    return {"row_id": np.array([f"r{i}" for i in range(n)], dtype=object), "text": text}


def embed(features: Features, batch: Any) -> dict[str, np.ndarray]:
    return {"embedding": features.pooled.numpy()}


def test_rows_of_like_length_go_together_and_come_back_in_their_order() -> None:
    encoder, batch = Sums(), texts()
    read = Encoding(encoder, Settings(batch_tokens=100)).each(Read(batch), embed)
    assert read.batch["row_id"].tolist() == batch["row_id"].tolist()
    assert set(read.batch) == {"row_id", "text", "embedding"}
    np.testing.assert_allclose(
        read.batch["embedding"][:, 1], [len(text.split()) * 2.0 for text in batch["text"]]
    )
    assert all(rows * width <= 100 for rows, width in encoder.widths)
    assert [width for _, width in encoder.widths] == sorted((w for _, w in encoder.widths), reverse=True)


def test_padding_is_counted() -> None:
    encoding = Encoding(Sums(), Settings(batch_tokens=100))
    encoding.each(Read(texts()), embed)
    spent = encoding.take_spent()
    words = sum(len(text.split()) for text in texts()["text"])
    assert spent["tokens"] == words
    assert spent["places"] == sum(rows * width for rows, width in encoding.encoder.widths)  # type: ignore[attr-defined]
    assert encoding.take_spent()["tokens"] == 0


@pytest.mark.parametrize(
    ("encoder", "chosen"),
    [
        (Sums(slow=torch.float32), "bfloat16"),
        (Sums(slow=torch.bfloat16), "float32"),
        (Sums(slow=torch.float32, wrong=True), "float32"),
    ],
    ids=["faster", "slower", "faster but wrong"],
)
def test_bfloat16_is_used_where_it_is_faster_and_as_good(tmp_path: Path, encoder: Sums, chosen: str) -> None:
    encoding = Encoding(encoder)
    settings = calibrated(encoding, texts(), Compute(), Place.of(tmp_path / "calibration.json"))
    assert settings.dtype == chosen
    assert encoder.weight.dtype == getattr(torch, chosen)
    said = json.loads((tmp_path / "calibration.json").read_text())
    cosines = [trial["cosine"] for trial in said["trials"] if trial["settings"]["dtype"] == "bfloat16"]
    assert (cosines[0] >= 0.999) != encoder.wrong


def test_exact_weights_come_back_after_a_trial_in_bfloat16(tmp_path: Path) -> None:
    encoder = Sums(slow=torch.bfloat16)
    calibrated(Encoding(encoder), texts(), Compute(), Place.of(tmp_path / "calibration.json"))
    assert encoder.weight[0].item() == pytest.approx(1.2345678, abs=1e-7)


def test_all_processes_do_as_the_first_one_found(tmp_path: Path) -> None:
    file = Place.of(tmp_path / "calibration.json")
    first = calibrated(Encoding(Sums(slow=torch.float32)), texts(), Compute(), file)
    second = calibrated(Encoding(Sums(slow=torch.bfloat16)), texts(), Compute(), file)
    assert first == second


def test_what_the_spec_says_is_not_tried(tmp_path: Path) -> None:
    said = Compute(batch_tokens=77, dtype="float32")
    settings = calibrated(Encoding(Sums()), texts(), said, Place.of(tmp_path / "calibration.json"))
    assert (settings.batch_tokens, settings.dtype) == (77, "float32")
    assert not is_open(Compute(batch_tokens=1, batch_size=1, dtype="float32"))
    assert usual(said, "cpu") == settings


def test_a_size_that_was_halved_is_tried_again_later() -> None:
    class Tight(Sums):
        fits = 4

        def forward(self, inputs: Inputs, want: Any = ()) -> Features:
            assert isinstance(inputs, torch.Tensor)
            if len(inputs) > self.fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(inputs, want)

    encoder = Tight()
    encoding = Encoding(encoder, Settings(batch_size=8))
    encoding.each(Read(texts()), embed)
    assert encoding.batch_size == 4
    assert encoding.spent.halved == 1
    encoder.fits = 99
    for _ in range(8):
        encoding.each(Read(texts()), embed)
    assert encoding.batch_size == 8
