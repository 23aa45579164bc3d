"""What the papers on text share: corpora that are the same on every run, and small models that learn."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ray_app import registry
from ray_app.papers._language_models import packed, sequences_of, small_model, taught, tokenizer_of, train
from ray_app.papers._texts import (
    bits_per_character,
    cheapest,
    cut,
    docstrings,
    language_reference,
    sources,
    without_near_duplicates,
)

PART = ["sklearn.cluster"]


def texts(*values: str) -> dict[str, np.ndarray]:
    return {"text": np.array(values, dtype=object)}


def test_documentation_is_distinct_and_the_same_for_a_seed() -> None:
    first, again, other = (docstrings(["sklearn"], modules=PART, limit=40, seed=seed) for seed in (0, 0, 1))
    assert len(set(first["text"])) == 40
    assert first["text"].tolist() == again["text"].tolist() != other["text"].tolist()
    assert all(80 <= len(text) <= 600 for text in first["text"])
    code = sources(["json"], limit=10)
    assert any("def " in text for text in code["text"])


def test_the_language_reference_is_cut_between_paragraphs() -> None:
    pieces = language_reference(max_chars=500)["text"]
    assert len(pieces) == len(set(pieces)) > 300
    assert max(map(len, pieces)) <= 500
    assert np.mean([len(piece) for piece in pieces]) > 250


def test_near_copies_go() -> None:
    long = "one two three four five six seven eight nine ten eleven twelve"
    kept = without_near_duplicates(texts(long, f"{long} more", "something else that nobody said before"))
    assert len(kept["text"]) == 2


def test_the_cheapest_fill_a_share_of_the_characters() -> None:
    pool = texts("a" * 10, "b" * 20, "c" * 30, "d" * 40)
    assert cheapest(pool, np.array([3.0, 1.0, 2.0, 0.0]), 0.6)["text"].tolist() == ["d" * 40, "b" * 20]


def test_pieces_have_one_length() -> None:
    pieces = cut(["abcdefg", "xy", "pqrs"], 3, 10, 0)
    assert sorted(pieces) == ["abc", "def", "pqr"]
    assert cut(["abcdefg"], 3, 1, 0) in (["abc"], ["def"])


def test_bits_weigh_characters_alike() -> None:
    scorer = registry.build("scorers", "perplexity", {"order": 2}).fit(texts("abab", "ba"))
    together = bits_per_character(scorer, texts("ab", "abababab"))
    nats = scorer.score(texts("ab", "abababab"))
    assert together == pytest.approx((2 * nats[0] + 8 * nats[1]) / 10 / np.log(2))


def test_small_models_learn_and_are_the_same_for_a_seed(tmp_path: Path) -> None:
    lines = ["the cat sat on the mat", "the dog sat on the log"] * 4
    tokenizer = tokenizer_of(lines, vocabulary=280)
    assert tokenizer.decode(tokenizer("ünseen \u4e2d")["input_ids"]) == "ünseen \u4e2d"
    state = torch.random.get_rng_state()
    nets = [
        train(small_model(tokenizer, dim=16, seed=1), sequences_of(tokenizer, lines, 8), **HOW)
        for _ in (0, 1)
    ]
    assert torch.equal(state, torch.random.get_rng_state())
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(a, b)
    few, many = (taught(tokenizer, lines, tmp_path, steps=steps, seed=0) for steps in (1, 40))
    assert bits_per_character(many, texts(*lines[:2])) < 0.5 * bits_per_character(few, texts(*lines[:2]))


HOW = {"steps": 5, "batch_size": 4, "lr": 1e-2, "seed": 0}


def test_steps_are_told_and_sequences_keep_their_texts() -> None:
    lines = ["one two", "three"]
    tokenizer = tokenizer_of(lines, vocabulary=280)
    begin = tokenizer.bos_token_id
    rows = sequences_of(tokenizer, lines, 3)
    assert all(row[0] == begin and len(row) <= 4 for row in rows)
    whole = [token for row in sequences_of(tokenizer, lines, 100) for token in row]
    joined = [token for row in packed(tokenizer, lines, 4) for token in row]
    # One token alone at the end has nothing before it: it is left out.
    assert joined == whole[: len(joined)]
    assert len(whole) - len(joined) <= 1
    steps: list[int] = []
    net = small_model(tokenizer, dim=16)
    train(net, rows, **HOW, after=steps.append)
    assert steps == [1, 2, 3, 4, 5]
    assert not net.training
