"""Counts by hand, the sketch against counting, and which preprocessings a window keeps."""

import random

import numpy as np
import pytest

from ray_app.errors import SpecError
from ray_app.methods._linguistic import Linguistic, stem, tag
from ray_app.methods.diagnostics.feature_density import FeatureDensity
from ray_app.methods.selectors.preprocessing_window import PreprocessingWindow
from ray_app.registry import build


def test_density_is_distinct_over_all() -> None:
    assert FeatureDensity().update([["a", "b"], ["a"]]).value() == pytest.approx(2 / 3)
    assert np.isnan(FeatureDensity().value())
    assert FeatureDensity().update([[], ["a"]]).value() == 1


@pytest.mark.parametrize("approximate", [False, True])
def test_merging_shards_equals_one_pass(*, approximate: bool) -> None:
    draw = random.Random(0)  # noqa: S311 (features, no secrets)
    rows = [[str(draw.randrange(500)) for _ in range(20)] for _ in range(60)]
    at_once = FeatureDensity(approximate=approximate).update(rows)
    parts = [FeatureDensity(approximate=approximate).update(rows[start::3]) for start in range(3)]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert (merged.distinct, merged.total, merged.value()) == (
        at_once.distinct,
        at_once.total,
        at_once.value(),
    )


@pytest.mark.parametrize("distinct", [10, 3000, 40_000, 300_000])
def test_the_sketch_is_within_three_per_cent(distinct: int) -> None:
    counted = FeatureDensity(approximate=True).update([[f"feature {i}" for i in range(distinct)]])
    assert counted.distinct == pytest.approx(distinct, rel=0.03)
    again = counted.distinct
    assert counted.update([[f"feature {i}" for i in range(0, distinct, 3)]]).distinct == again


def test_a_sketch_does_not_merge_with_a_count() -> None:
    with pytest.raises(ValueError, match="make both so, or neither"):
        FeatureDensity().merge(FeatureDensity(approximate=True))


TEXT = "The cats weren't running, 3 dogs RAN: the end."


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ['the', 'cats', "weren't", 'running', ',', '3', 'dogs', 'ran', ':', 'the', 'end', '.']),
        ({"lower": False, "alpha": True}, ['The', 'cats', "weren't", 'running', 'dogs', 'RAN', 'the', 'end']),
        ({"stop": "drop", "alpha": True}, ['cats', "weren't", 'running', 'dogs', 'ran', 'end']),
        ({"stop": "only"}, ["the", "the"]),
        ({"unit": "stem", "alpha": True, "stop": "drop"}, ['cat', "weren't", 'runn', 'dog', 'ran', 'end']),
        ({"unit": "tag", "alpha": True}, ["SHORT3", "PLURAL", "WORD", "VERB", "PLURAL", *["SHORT3"] * 3]),
        ({"unit": "token_tag", "stop": "only"}, ["the_SHORT3", "the_SHORT3"]),
        ({"unit": "chunk"}, ["cats_weren't_running", "3_dogs_ran", "end"]),
        ({"unit": "ending", "stop": "only"}, ["e", "e"]),
        ({"unit": "char", "stop": "only", "n": 3}, ["the", "he ", "e t", " th", "the"]),
        ({"n": 4, "stop": "drop", "alpha": True},
         ["cats weren't running dogs", "weren't running dogs ran", "running dogs ran end"]),
    ],
)  # fmt: skip
def test_what_a_preprocessing_makes_of_a_text(options: dict[str, object], expected: list[str]) -> None:
    assert Linguistic(**options).features(TEXT) == expected  # type: ignore[arg-type]  # options as in YAML


def test_stems_and_tags_follow_their_rules() -> None:
    pairs = {
        "nations": "nation",
        "relational": "relate",
        "parties": "party",
        "glass": "glass",
        "is": "is",
        "sing": "sing",
    }
    assert {word: stem(word) for word in pairs} == pairs
    tags = {
        "quickly": "ADV",
        "running": "VERB",
        "nation": "NOUN",
        "famous": "ADJ",
        "12.5": "NUMBER",
        "!": "MARK",
    }
    assert {word: tag(word) for word in tags} == tags


def test_the_report_is_a_table_that_the_window_reads() -> None:
    texts = ["a b c a b c", "a b c d"]
    setups = {"tokens": {}, "pairs": {"n": 2}, "endings": {"unit": "ending"}, "triples": {"n": 3}}
    table = FeatureDensity().report(texts, setups)
    assert table["distinct"] == [4, 4, 4, 4]
    assert table["total"] == [10, 8, 10, 6]
    assert table["density"] == pytest.approx([0.4, 0.5, 0.4, 2 / 3])
    assert PreprocessingWindow(low=0.5, high=1.5).choose(table) == ["tokens", "pairs", "endings"]
    assert PreprocessingWindow(low=0, high=float("inf")).choose(table) == list(setups)
    assert PreprocessingWindow(low=1, high=1, base="pairs").choose(table) == ["pairs"]
    with pytest.raises(ValueError, match="no 'words' to compare with"):
        PreprocessingWindow(base="words").choose(table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "word"}, "unit must be one of token, .*; got 'word'"),
        ({"stop": "some"}, "keep, drop or only, got 'some'"),
        ({"n": 0}, "n must be >= 1, got 0"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build("scorers", "feature_density", options)
    with pytest.raises(ValueError, match="expected 0 <= low <= high"):
        PreprocessingWindow(low=2, high=1)
