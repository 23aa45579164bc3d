"""Chunks hold every unit, end at borders where there are some, and say where they lie."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.errors import SpecError
from ray_app.methods.transforms.chunk import Chunk
from ray_app.testing.transforms import check_transform
from tests.methods.transforms.texts import batch, build, word_tokenizer

TEXT = "One two three. Four five six seven. Eight nine ten eleven twelve thirteen."


def chunks(text: str, **options: Any) -> list[str]:
    return list(build("chunk", **options)(batch(text))["text"])


def test_chunks_end_with_a_sentence_where_one_ends_in_their_second_half() -> None:
    assert chunks(TEXT, size=5) == [
        "One two three.",
        "Four five six seven.",
        "Eight nine ten eleven twelve",
        "thirteen.",
    ]
    assert chunks(TEXT, size=8) == ["One two three. Four five six seven.", TEXT[36:]]


def test_overlap_repeats_the_units_before() -> None:
    assert chunks("a b c d e f", size=4, overlap=2, border=None) == ["a b c d", "c d e f"]
    assert chunks("a b c d e f g", size=4, overlap=1, border=None) == ["a b c d", "d e f g"]


def test_paragraphs_and_characters() -> None:
    assert chunks("a b. c\n\nd e f", size=4, border="paragraph") == ["a b. c", "d e f"]
    assert chunks("abcdefg", size=3, unit="char", border=None) == ["abc", "def", "g"]


def test_model_tokens(tmp_path: Path) -> None:
    path = word_tokenizer(tmp_path)
    assert chunks("abcdef gh", size=2, unit="token", tokenizer=path, border=None) == ["abcd", "ef ", "gh"]


def test_rows_are_named_after_their_parent_and_say_where_they_lie() -> None:
    rows = batch(TEXT, "", "short")
    made = build("chunk", size=5, overlap=1)(rows)
    assert list(made["row_id"]) == [f"r0/{k}" for k in range(4)] + ["r1/0", "r2/0"]
    assert list(made["label"]) == [0] * 4 + [1, 2]
    for text, start, stop, label in zip(
        made["text"], made["chunk_start"], made["chunk_stop"], made["label"], strict=True
    ):
        assert rows["text"][label][start:stop] == text


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    words=st.lists(st.sampled_from(["a", "bb.", "c!", "dd", "\n\n", "  "]), max_size=40),
    size=st.integers(1, 9),
    overlap=st.integers(0, 4),
    border=st.sampled_from([None, "sentence", "paragraph"]),
    unit=st.sampled_from(["word", "char"]),
)
def test_every_unit_is_in_a_chunk_and_none_is_too_long(
    words: list[str], size: int, overlap: int, border: Any, unit: Any
) -> None:
    text = " ".join(words)
    overlap = min(overlap, size // 2)
    made = Chunk(size=size, overlap=overlap, border=border, unit=unit)(batch(text))
    covered = set()
    for part, start, stop in zip(made["text"], made["chunk_start"], made["chunk_stop"], strict=True):
        units = part.split() if unit == "word" else part
        assert len(units) <= size
        covered |= set(range(start, stop))
    assert all(text[place].isspace() for place in set(range(len(text))) - covered)
    starts = made["chunk_start"].tolist()
    assert starts == sorted(set(starts))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be >= 1, got 0"),
        ({"size": 8, "overlap": 5}, "overlap must be in 0..size/2, got 5 of 8"),
        ({"unit": "line"}, "word, char or token, got 'line'"),
        ({"border": "page"}, "sentence, paragraph or nothing, got 'page'"),
        ({"unit": "token"}, "`unit: token` needs one"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build("chunk", **options)


def test_contract() -> None:
    check_transform(lambda: Chunk(size=4, overlap=1), batch(TEXT, "", "a", TEXT))
