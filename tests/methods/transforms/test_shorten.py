"""What goes and what stays, in which order, and how it is cut."""

from pathlib import Path

import numpy as np
import pytest

from ray_app.errors import SpecError
from ray_app.methods.transforms.shorten import Shorten
from ray_app.testing.transforms import check_transform
from tests.methods.transforms.texts import batch, build, change, word_tokenizer

TEXT = "The cat sat, and the cat didn't jump: not once!"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, TEXT),
        ({"stopwords": "english"}, "cat sat, cat didn't jump: !"),
        ({"stopwords": "english", "keep": ["Not", "once"]}, "cat sat, cat didn't jump: not once!"),
        ({"stopwords": ["CAT", "the"]}, "sat, and didn't jump: not once!"),
        ({"punctuation": "drop"}, "The cat sat and the cat didn't jump not once"),
        ({"drop_recurring": True}, "The cat sat, and didn't jump: not once!"),
        ({"vocabulary": ["the", "cat", "moved"]}, "The cat , the cat : !"),
        ({"vocabulary": {"the": 4, "cat": 2, "sat": 1}, "min_df": 2}, "The cat , the cat : !"),
        ({"vocabulary": {"the": 4, "cat": 2, "sat": 1}}, "The cat sat, the cat : !"),
        ({"max_tokens": 4}, "The cat sat,"),
        ({"max_tokens": 99}, TEXT),
        ({"stopwords": "english", "max_tokens": 4}, "cat sat, cat"),
        ({"stopwords": ["the", "and", "not"], "punctuation": "drop", "drop_recurring": True, "max_tokens": 3},
         "cat sat didn't"),
    ],
)  # fmt: skip
def test_what_is_left(options: dict[str, object], expected: str) -> None:
    assert change("shorten", TEXT, **options) == expected


def test_words_do_not_grow_together() -> None:
    assert change("shorten", "a,b;the,c", punctuation="drop", stopwords=["the"]) == "a b c"
    assert change("shorten", "state-of-the-art", stopwords=["of", "the"]) == "state- - -art"


def test_a_first_occurrence_that_is_a_stop_word_is_no_occurrence() -> None:
    assert change("shorten", "it IT cat It", stopwords=["it"], drop_recurring=True) == "cat"


def test_model_tokens_are_counted_after_shortening(tmp_path: Path) -> None:
    path = word_tokenizer(tmp_path)
    # Pieces: th e _ ca t _ sa t
    assert change("shorten", "the cat sat", max_tokens=4, tokenizer=path) == "the ca"
    assert change("shorten", "the cat sat", max_tokens=4, tokenizer=path, stopwords=["the"]) == "cat sa"
    assert change("shorten", "the cat sat", max_tokens=99, tokenizer=path) == "the cat sat"


def test_a_vocabulary_file_has_words_or_words_and_numbers(tmp_path: Path) -> None:
    counted, plain, wrong = (tmp_path / name for name in ("counted", "plain", "wrong"))
    counted.write_text("the\t4\ncat\t2\nsat\t1\n", encoding="utf-8")
    plain.write_text("the\n\ncat\n", encoding="utf-8")
    wrong.write_text("the\tmany\n", encoding="utf-8")
    assert change("shorten", TEXT, vocabulary=str(counted), min_df=2) == "The cat , the cat : !"
    assert change("shorten", TEXT, vocabulary=str(plain)) == "The cat , the cat : !"
    with pytest.raises(SpecError, match="word<tab>number"):
        build("shorten", vocabulary=str(wrong))
    with pytest.raises(SpecError, match="give word → documents"):
        build("shorten", vocabulary=str(plain), min_df=2)


def test_document_frequencies_count_texts_not_words() -> None:
    found = Shorten.document_frequencies(["The cat, the cat.", "A cat didn't"])
    assert found == {"cat": 2, "a": 1, "didn't": 1, "the": 1}
    assert next(iter(found)) == "cat"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"punctuation": "some"}, "keep or drop, got 'some'"),
        ({"max_tokens": 0}, "max_tokens must be >= 1, got 0"),
        ({"min_df": 2}, "min_df=2 needs a vocabulary"),
        ({"stopwords": "german"}, "english or a list of words, got 'german'"),
        ({"tokenizer": "nowhere"}, "tokenizer counts max_tokens"),
        ({"tokenizer": "nowhere", "max_tokens": 3}, "give a tokenizer.json or its folder"),
        ({"vocabulary": "nowhere"}, "vocabulary 'nowhere' cannot be read"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        build("shorten", **options)
    assert "\n" not in str(caught.value)


def test_contract_and_a_row_without_text() -> None:
    rows = batch(TEXT, "", "...", "a b c d")
    check_transform(lambda: Shorten(stopwords="english", drop_recurring=True, max_tokens=3), rows)
    rows["text"][2] = None
    with pytest.raises(ValueError, match="row 2: expected text, got NoneType"):
        Shorten()(rows)
    assert np.array_equal(Shorten(column="title")({**rows, "title": rows["row_id"]})["text"], rows["text"])
