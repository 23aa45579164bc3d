"""Rules of thumb: each signal on a text whose value one can count by hand."""

import numpy as np
import pytest

from ray_app.methods.scorers.heuristics import Heuristics
from ray_app.testing.scorers import check_scorer

PROSE = (
    "The harbour was quiet when they came back to it, and nobody had kept a light that could be seen. "
    "We rowed slowly, with the tide against us, until the boat touched sand; then my brother jumped out. "
    "He said that it would rain before morning. It did, and for two days we have seen no other sail."
)


def texts(*values: object) -> dict[str, np.ndarray]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return {"text": column}


def signals(text: str) -> dict[str, float]:
    return Heuristics().signals(text)


@pytest.mark.parametrize(
    ("signal", "text", "expected"),
    [
        ("words", "one two  three\nfour", 4),
        ("mean_word_length", "a bb cccc a", 2),
        ("symbol_ratio", "# one ... two", 2 / 4),
        ("bullet_lines", "- one\n* two\nthree - four\n\n•five", 3 / 4),
        ("ellipsis_lines", "and so...\non…\nends", 2 / 3),
        ("punctuated_lines", 'Yes.\nNo!\n"Why?"\nnever\n', 3 / 4),
        ("short_lines", "short\n" + "x" * 30 + "\n" + "y" * 31, 2 / 3),
        ("alphabetic_words", "a1 22 b ++", 1 / 2),
        ("stop_words", "The cat, and THE dog: that.", 3),
        ("repeated_lines", "ab\nab\ncdef\nab", 2 / 4),
        ("repeated_line_chars", "ab\nab\ncdef\nab", 4 / 10),
        ("repeated_paragraphs", "ab\nc\n\nab\nc\n\nd", 1 / 3),
        ("repeated_paragraph_chars", "ab\nc\n\nab\nc\n\nd", 4 / 9),
        ("top_2_grams", "aa b x aa b yyyy aa", (2 + 1) * 2 / (2 + 1 + 1 + 2 + 1 + 4 + 2)),
        # Of three equal words, the middle one is in both pairs, and counts once.
        ("top_2_grams", "go go go stop", 6 / 10),
        ("repeated_5_grams", "a b c d e X a b c d e", 10 / 11),
        ("repeated_6_grams", "a b c d e X a b c d e", 0),
        ("braces", "{a} }", 3),
        ("boilerplate", "Enable JavaScript\nplease\nSee our Privacy Policy", 2),
    ],
)
def test_signals_by_hand(signal: str, text: str, expected: float) -> None:
    assert signals(text)[signal] == pytest.approx(expected)
    assert Heuristics(signal=signal).score(texts(text))[0] == pytest.approx(expected)


def test_grams_against_a_slow_count() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        words = [str(word) for word in rng.integers(4, size=40)]
        found = signals(" ".join(words))
        for n in range(5, 11):
            grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
            covered = {j for i, gram in enumerate(grams) if grams.count(gram) > 1 for j in range(i, i + n)}
            assert found[f"repeated_{n}_grams"] == pytest.approx(len(covered) / len(words))


def test_prose_passes_what_noise_fails() -> None:
    menu = "Home\nNews\nSport\nHome\nNews\nSport\n{ enable javascript }\n# # #"
    good, bad, empty = Heuristics().score(texts(PROSE, menu, ""))
    assert good == 1
    assert bad < 0.75
    assert 0 <= empty < 1


def test_limits_replace_and_remove_rules() -> None:
    rules = len(Heuristics().limits)
    assert len(Heuristics(limits={"words": None}).limits) == rules - 1
    strict = Heuristics(limits={"words": [1000, None]})
    assert strict.score(texts(PROSE))[0] == pytest.approx(1 - 1 / rules)
    exact = Heuristics(limits={"words": [58, 58]})
    assert signals(PROSE)["words"] == 58
    assert exact.score(texts(PROSE))[0] == 1


def test_a_signal_knows_which_end_is_wanted() -> None:
    assert Heuristics().higher_is_better
    assert Heuristics(signal="stop_words").higher_is_better
    assert not Heuristics(signal="repeated_lines").higher_is_better


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"signal": "wordz"}, "unknown signal 'wordz'"),
        ({"limits": {"wordz": [1, 2]}}, "unknown signal 'wordz'"),
        ({"limits": {"words": [3]}}, r"must be \[least, most\], got \[3\]"),
        ({"limits": {"words": [3, 2]}}, "must not be the larger"),
        ({"stop_words": "the"}, "a list of words"),
        ({"limits": dict.fromkeys(Heuristics().limits)}, "no rule"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Heuristics(**options)  # type: ignore[arg-type]


def test_contract() -> None:
    batch = texts(PROSE, "short", "", "a b " * 50, "fünf Wörter über dem Fluß")
    check_scorer(Heuristics, batch, texts(None))
    check_scorer(lambda: Heuristics(signal="words", column="text"), batch, texts(b"bytes"))
