"""Lengths by hand, for a tokenizer of one's own and for words."""

from pathlib import Path

import pytest

from ray_app.methods.diagnostics.token_length import TokenLength
from tests.methods.transforms.texts import word_tokenizer

TEXTS = ["ab cd", "abcdef", "a", "ab, cd ef gh"]


def test_lengths_shares_and_order(tmp_path: Path) -> None:
    table = TokenLength(limits=(2, 4)).report(TEXTS, {"pieces": word_tokenizer(tmp_path), "words": None})
    assert table["tokenizer"] == ["words", "pieces"]
    words, pieces = [2, 1, 1, 5], [3, 3, 1, 8]
    assert table["mean"] == [sum(words) / 4, sum(pieces) / 4]
    assert table["p50"] == [1.5, 3]
    assert table["fertility"] == pytest.approx([9 / 8, 15 / 8])
    assert table["cut_at_2"] == [0.25, 0.75]
    assert table["cut_at_4"] == [0.25, 0.25]
    assert table["kept_at_4"] == pytest.approx([8 / 9, 11 / 15])


def test_what_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="is the split empty"):
        TokenLength().report([], {"words": None})
    with pytest.raises(ValueError, match="tokenizer 'nowhere' cannot be read"):
        TokenLength().report(["a"], {"lost": "nowhere"})
    with pytest.raises(ValueError, match=r"limits must be numbers of tokens >= 1, got \(0,\)"):
        TokenLength(limits=(0,))
