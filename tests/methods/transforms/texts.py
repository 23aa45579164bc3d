"""Texts as a batch, and back."""

from typing import Any

import numpy as np

from ray_app import registry
from ray_app.methods import transforms


def batch(*texts: str) -> dict[str, np.ndarray]:
    column = np.empty(len(texts), dtype=object)
    column[:] = texts
    return {
        "row_id": np.array([f"r{i}" for i in range(len(texts))], dtype=object),
        "label": np.arange(len(texts)),
        "text": column,
    }


def build(name: str, **options: Any) -> transforms.Transform:
    made: transforms.Transform = registry.build("transforms", name, options)
    return made


def change(name: str, text: str, **options: Any) -> str:
    return str(build(name, **options)(batch(text))["text"][0])


def word_tokenizer(path: Any) -> str:
    """Write a tokenizer.json whose tokens are pieces of up to two letters, and return its path."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))  # noqa: S106 (no password)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w{1,2}|\W"), behavior="isolated")
    tokenizer.save(str(path / "tokenizer.json"))
    return str(path)
