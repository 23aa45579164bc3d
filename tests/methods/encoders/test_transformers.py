"""The transformers encoder on a tiny BERT that is made here, from a configuration and a word list."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_app.methods.encoders.transformers import Transformers
from ray_app.testing.encoders import check_encoder
from tests.bert import tiny_bert

TEXTS = ["the cat sat", "a dog", "the dog sat on the mat", "", "unknown words are fine"]
BATCH = {"text": np.array(TEXTS, dtype=object), "row_id": np.arange(5).astype(str)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pooling": "cls"},
        {"normalize": True, "num_classes": 3},
        {"long": "chunk", "max_length": 5, "overlap": 1, "num_classes": 2},
    ],
)
def test_keeps_the_contract(folder: Path, options: dict[str, Any]) -> None:
    check_encoder(lambda: Transformers(model=str(folder), **options), BATCH)


def test_equals_the_library_row_by_row(folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    mean, cls = Transformers(model=str(folder)).eval(), Transformers(model=str(folder), pooling="cls").eval()
    inputs = mean.preprocess(BATCH)
    with torch.no_grad():
        got, first = mean(inputs, {"layers", "tokens"}), cls(inputs)
        for row, text in enumerate(TEXTS):
            output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
            hidden = output.last_hidden_state[0]
            torch.testing.assert_close(got.pooled[row], hidden.mean(0), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(first.pooled[row], hidden[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(got.tokens[row, : got.lengths[row]], hidden, rtol=1e-4, atol=1e-5)
            assert got.lengths[row] == len(hidden)
            for layer, states in zip(got.layers.values(), output.hidden_states, strict=True):
                torch.testing.assert_close(layer[row], states[0].mean(0), rtol=1e-4, atol=1e-5)
    assert list(got.layers) == ["embeddings", "layer.1", "layer.2"]


def test_a_bundle_needs_neither_the_folder_nor_a_network(folder: Path, tmp_path: Path) -> None:
    options, files = Transformers(model=str(folder), num_classes=2).portable()
    assert {"config.json", "tokenizer.json"} <= set(files)
    assert "model" not in options
    assert str(folder) not in json.dumps(options) + files["config.json"].decode()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    rebuilt = Transformers(**options, assets=tmp_path)
    assert rebuilt.dim == 16
    assert rebuilt.preparation.max_length == 24


def test_weights_are_drawn_from_the_seed_when_not_loaded(folder: Path) -> None:
    first, same, other = (Transformers(model=str(folder), pretrained=False, seed=seed) for seed in (0, 0, 1))
    weights = [
        encoder.state_dict()["net.embeddings.word_embeddings.weight"] for encoder in (first, same, other)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_long_texts_are_cut(folder: Path) -> None:
    encoder = Transformers(model=str(folder), max_length=6)
    inputs = encoder.preprocess({"text": np.array(["the cat sat on the mat"], dtype=object)})
    assert isinstance(inputs, dict)
    assert inputs["input_ids"].shape == (1, 6)


def test_long_texts_in_windows_are_the_mean_of_their_windows(folder: Path) -> None:
    long = "the cat sat on the mat a dog sat"
    texts = [long, "the cat", ""]
    encoder = Transformers(model=str(folder), max_length=6, long="chunk", overlap=1).eval()
    plain = Transformers(model=str(folder), max_length=6).eval()
    words = long.split()
    # Windows of four words (two places are the special tokens'), each begins with the last one's end.
    windows = [" ".join(words[start : start + 4]) for start in (0, 3, 6)]
    inputs = encoder.preprocess({"text": np.array(texts, dtype=object)})
    assert isinstance(inputs, dict)
    assert inputs["input_ids"].shape == (3, 3, 6)
    with torch.no_grad():
        got = encoder(inputs, {"layers"})
        parts = plain(plain.preprocess({"text": np.array(windows, dtype=object)}))
        short = plain(plain.preprocess({"text": np.array(texts[1:], dtype=object)}), {"layers"})
    weight = torch.tensor([6.0, 6.0, 5.0])[:, None]
    torch.testing.assert_close(
        got.pooled[0], (parts.pooled * weight).sum(0) / weight.sum(), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(got.pooled[1:], short.pooled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.layers["layer.1"][1:], short.layers["layer.1"], rtol=1e-4, atol=1e-5)
    assert encoder.preparation.lengths(
        encoder.preparation.prepare({"text": np.array(texts, dtype=object)})
    ).tolist() == [18, 4, 2]


def test_the_light_part_prepares_as_the_whole_does(folder: Path) -> None:
    whole, light = Transformers(model=str(folder)), Transformers.light(model=str(folder))
    given, expected = light.collate(light.prepare(BATCH)), whole.preprocess(BATCH)
    assert isinstance(given, dict)
    assert isinstance(expected, dict)
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in given)


def test_attention_is_torchs_own_kernel(folder: Path) -> None:
    assert Transformers(model=str(folder)).net.config._attn_implementation == "sdpa"


def test_refusals(folder: Path, tmp_path: Path) -> None:
    encoder = Transformers(model=str(folder))
    with pytest.raises(ValueError, match="row 1: NoneType in the column 'text'"):
        encoder.preprocess({"text": np.array(["a", None], dtype=object)})
    with pytest.raises(ValueError, match="has no logits"):
        encoder(encoder.preprocess(BATCH), {"logits"})
    with pytest.raises(ValueError, match=r"1\.\.24"):
        Transformers(model=str(folder), max_length=25)
    with pytest.raises(ValueError, match="mean or cls"):
        Transformers(model=str(folder), pooling="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is it a model's folder"):
        Transformers(model=str(tmp_path))
    with pytest.raises(ValueError, match=r"overlap must be 0\.\.3"):
        Transformers(model=str(folder), max_length=6, long="chunk", overlap=4)
    with pytest.raises(ValueError, match="no model; name"):
        Transformers()
