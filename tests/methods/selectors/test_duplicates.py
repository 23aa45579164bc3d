"""Duplicates against comparing all with all: exact_duplicates, near_duplicates, semantic_duplicates."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from ray_app import registry
from ray_app.errors import NotFittedError, SpecError
from ray_app.methods.selectors import DuplicateSelector, View, row_hash
from ray_app.methods.selectors.near_duplicates import NearDuplicates
from ray_app.methods.selectors.semantic_duplicates import SemanticDuplicates


def build(name: str, **options: Any) -> DuplicateSelector:
    made: DuplicateSelector = registry.build("selectors", name, options)
    return made


def view(texts: list[Any], score: list[float] | None = None) -> View:
    column = np.empty(len(texts), dtype=object)
    column[:] = texts
    ids = np.array([f"r{i}" for i in range(len(texts))], dtype=object)
    return View(row_ids=ids, texts=column, score=None if score is None else np.array(score))


def kept(selector: DuplicateSelector, pool: View) -> list[int]:
    rows: list[int] = selector.select(pool, float(len(pool)), np.random.default_rng(0)).indices.tolist()
    return rows


def test_of_equal_values_the_best_stays() -> None:
    pool = view(["a", "b", "a", "A ", "a"], [0.1, 0.2, 0.9, 1.0, np.nan])
    assert kept(build("exact_duplicates", by="s"), pool) == [1, 2, 3]
    assert kept(build("exact_duplicates", by="s", fold=True), pool) == [1, 3]
    without = kept(build("exact_duplicates"), pool)
    assert pool.row_ids is not None
    assert without == sorted([1, 3, min((0, 2, 4), key=lambda row: int(row_hash(pool.row_ids)[row]))])


def test_values_of_other_types_and_shapes_are_told_apart() -> None:
    image = np.zeros((2, 2), dtype=np.uint8)
    values = ["1", b"1", 1, 1.0, None, image, image.copy(), image.reshape(4), image.astype(np.int8)]
    rows = kept(build("exact_duplicates", column="image"), view(values))
    assert len(rows) == len(values) - 1


WORDS = np.array([f"w{i}" for i in range(400)])


def variants(seed: int) -> list[str]:
    """Texts, and copies of some with words replaced at rates that lie on both sides of a threshold."""
    rng = np.random.default_rng(seed)
    texts = [list(rng.choice(WORDS, size=80)) for _ in range(30)]
    for source, rate in zip(range(20), np.linspace(0.0, 0.3, 20), strict=True):
        copy = np.array(texts[source])
        copy[rng.random(80) < rate] = "new"
        texts.append(list(copy))
    return [" ".join(words) for words in texts]


def jaccard(a: str, b: str, n: int) -> float:
    x, y = ({tuple(t.split()[i : i + n]) for i in range(len(t.split()) - n + 1)} for t in (a, b))
    return len(x & y) / len(x | y)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_near_duplicates_are_those_of_the_true_jaccard(seed: int, threshold: float) -> None:
    texts = variants(seed)
    selector = NearDuplicates(threshold=threshold, ngram=2, permutations=512, recall=0.99)
    found = {tuple(sorted(pair)) for pair in selector.pairs(selector.signature(view(texts))).tolist()}
    # Three standard deviations of the estimate on either side of the threshold may go either way.
    slack = 3 * (threshold * (1 - threshold) / 512) ** 0.5
    for pair in combinations(range(len(texts)), 2):
        truth = jaccard(texts[pair[0]], texts[pair[1]], 2)
        if truth >= threshold + slack:
            assert pair in found, truth
        if truth < threshold - slack:
            assert pair not in found, truth


def test_signatures_estimate_jaccard() -> None:
    texts = variants(1)
    selector = NearDuplicates(ngram=2, permutations=2048)
    signature = selector.signature(view(texts))
    for source in range(20):
        estimate = (signature[source] == signature[30 + source]).mean()
        assert estimate == pytest.approx(jaccard(texts[source], texts[30 + source], 2), abs=0.05)


def test_bands_keep_the_recall_with_as_many_values_as_they_can() -> None:
    for threshold in (0.3, 0.5, 0.8, 0.95):
        selector = NearDuplicates(threshold=threshold, permutations=128, recall=0.95)
        bands, rows = selector.bands, selector.rows
        assert bands * rows <= 128
        assert 1 - (1 - threshold**rows) ** bands >= 0.95
        more = rows + 1
        assert 1 - (1 - threshold**more) ** (128 // more) < 0.95
    assert NearDuplicates(threshold=0.01, permutations=8).rows == 1


def test_many_copies_are_tied_to_one_another_not_all_to_all() -> None:
    selector = NearDuplicates(permutations=16)
    signature = selector.signature(view(["the same few words again"] * 2000))
    assert len(selector.alike(signature)) == 1999


def test_a_large_group_is_compared_in_parts() -> None:
    signature = np.random.default_rng(0).integers(2**32, size=(700, 16), dtype=np.uint32)
    signature[600:] = signature[250:350]
    signature[600:, 3] += 1
    pairs = NearDuplicates(permutations=16, threshold=0.8).alike(signature)
    assert {tuple(sorted(pair)) for pair in pairs.tolist()} == {(250 + i, 600 + i) for i in range(100)}


def test_chains_are_one_component() -> None:
    base = [f"w{i}" for i in range(100)]
    chain = [" ".join([*base[5 * step :], *(f"new{i}" for i in range(5 * step))]) for step in range(6)]
    assert jaccard(chain[0], chain[-1], 1) < 0.7 < jaccard(chain[0], chain[1], 1)
    pool = view(chain, [0, 0, 0, 1, 0, 0])
    assert kept(NearDuplicates(threshold=0.8, ngram=1, permutations=512, by="s"), pool) == [3]


def test_short_empty_and_missing_texts() -> None:
    assert len(kept(NearDuplicates(), view(["", None, "...", "one", "One!", "two"]))) == 3
    assert len(kept(NearDuplicates(unit="char"), view(["ab", "ab", "", "ba"]))) == 3


@pytest.mark.parametrize("seed", range(2))
def test_semantic_duplicates_are_those_above_the_cosine(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, 16)) * 3
    base = centres[rng.integers(4, size=60)] + rng.normal(size=(60, 16))
    x = np.concatenate([base, base[:20] * 2 + rng.normal(size=(20, 16)) * 0.1]).astype(np.float32)
    pool = View(row_ids=np.array([f"r{i}" for i in range(80)], dtype=object), features=x)
    selector = SemanticDuplicates(threshold=0.97, clusters=1).fit(pool, np.random.default_rng(0))
    signature = selector.signature(pool)
    found = {tuple(sorted(pair)) for pair in selector.pairs(signature).tolist()}
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = {pair for pair in combinations(range(80), 2) if unit[pair[0]] @ unit[pair[1]] >= 0.97}
    assert found == expected
    assert len(expected) >= 20
    # More clusters can only miss pairs that a border parts.
    more = SemanticDuplicates(threshold=0.97, clusters=4).fit(pool, np.random.default_rng(0))
    parted = {tuple(sorted(pair)) for pair in more.pairs(signature).tolist()}
    assert parted <= expected
    assert len(parted) >= 0.8 * len(expected)


def test_semantic_duplicates_need_centroids_and_rows() -> None:
    pool = View(row_ids=np.array(["a"], dtype=object), features=np.ones((1, 3), dtype=np.float32))
    with pytest.raises(NotFittedError, match="call fit"):
        SemanticDuplicates().select(pool, 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="is the sample empty"):
        SemanticDuplicates().fit(pool.take(slice(0, 0)), np.random.default_rng(0))
    assert SemanticDuplicates().fit(pool, np.random.default_rng(0)).state()["centroids"].shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("exact_duplicates", {"column": None, "fold": True}, "needs a column of text"),
        ("near_duplicates", {"threshold": 0.0}, "above 0, got 0.0"),
        ("near_duplicates", {"permutations": 0}, "must be >= 1, got 3 and 0"),
        ("near_duplicates", {"unit": "line"}, "word or char, got 'line'"),
        ("near_duplicates", {"recall": 1.0}, "between 0 and 1, got 1.0"),
        ("semantic_duplicates", {"threshold": 2.0}, "a cosine in -1..1, got 2.0"),
        ("semantic_duplicates", {"clusters": 0}, "clusters must be >= 1, got 0"),
    ],
)
def test_wrong_options_are_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(name, **options)
