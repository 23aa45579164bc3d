"""Perplexity against slow second implementations."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ray_app.errors import NotFittedError
from ray_app.methods.scorers.perplexity import Perplexity
from ray_app.testing.scorers import check_scorer
from tests.causal import tiny_model

TRAIN = ["the cat sat on the mat", "a cat, a hat", "that hat!", "ça va", "oh", "the end of the tale"]
OTHER = ["the mat", "zebra \U0001f993 crossing", "a", "hhhh", "the cat sat on the mat"]


def texts(*values: object) -> dict[str, np.ndarray]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return {"text": column}


def slow(train: list[str], text: str, order: int) -> float:
    """Nats a character, by counters of strings; a text begins with order - 1 blanks that no text holds."""
    blanks = "\0" * (order - 1)
    alphabet = {c for t in train for c in t}
    counts: list[Counter[str]] = [Counter() for _ in range(order + 1)]
    for t in train:
        padded = blanks + t
        for i in range(order - 1, len(padded)):
            for k in range(1, order + 1):
                counts[k][padded[i - k + 1 : i + 1]] += 1

    def probability(c: str, before: str, k: int) -> float:
        if k == 0:
            return 1 / (len(alphabet) + 1)
        context = before[len(before) - k + 1 :]
        followed = {gram: n for gram, n in counts[k].items() if gram[:-1] == context}
        total, kinds, lower = sum(followed.values()), len(followed), probability(c, before, k - 1)
        return lower if not total else (followed.get(context + c, 0) + kinds * lower) / (total + kinds)

    padded = blanks + text
    return -sum(
        math.log(probability(padded[i], padded[:i], order)) for i in range(order - 1, len(padded))
    ) / len(text)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_ngram_is_witten_bell(order: int) -> None:
    scorer = Perplexity(order=order).fit(texts(*TRAIN))
    expected = [slow(TRAIN, text, order) for text in OTHER]
    np.testing.assert_allclose(scorer.score(texts(*OTHER)), expected, rtol=1e-9)


def test_probabilities_of_all_characters_sum_to_one() -> None:
    scorer = Perplexity(order=3).fit(texts(*TRAIN))
    alphabet = [*sorted({c for t in TRAIN for c in t}), "\U0001f993"]
    for start in ("", "t", "th", "qq"):
        before = scorer.score(texts(start))[0] * len(start) if start else 0.0
        after = scorer.score(texts(*(start + c for c in alphabet))) * (len(start) + 1)
        assert np.exp(-(after - before)).sum() == pytest.approx(1)


def test_long_batches_are_scored_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Perplexity().fit(texts(*TRAIN))
    whole = scorer.score(texts(*OTHER, *TRAIN))
    monkeypatch.setattr("ray_app.methods.scorers._ngram._BLOCK", 10)
    np.testing.assert_allclose(scorer.score(texts(*OTHER, *TRAIN)), whole)


def test_lone_surrogates_and_empty_texts_are_no_accident() -> None:
    scorer = Perplexity().fit(texts("ab\ud800", ""))
    score = scorer.score(texts("\ud800", "", None, "ab"))
    assert np.isfinite(score[[0, 3]]).all()
    assert np.isnan(score[[1, 2]]).all()


def test_contract_of_ngram() -> None:
    check_scorer(Perplexity, texts(*TRAIN), texts(7))
    with pytest.raises(NotFittedError, match="fit: <split>"):
        Perplexity().score(texts("a"))
    with pytest.raises(ValueError, match="order 4, not 3"):
        Perplexity(order=3).load_state(Perplexity().fit(texts(*TRAIN)).state())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("causal"), TRAIN * 3)


def test_network_is_the_mean_of_its_own_cross_entropies(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    net = AutoModelForCausalLM.from_pretrained(folder).eval()
    for per in ("token", "char"):
        got = Perplexity(model=str(folder), per=per, batch_tokens=20).score(texts(*OTHER))
        for text, score in zip(OTHER, got, strict=True):
            ids = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]
            with torch.no_grad():
                log = net(torch.tensor([ids])).logits[0].log_softmax(-1)
            nats = -sum(float(log[i, token]) for i, token in enumerate(ids[1:]))
            assert score == pytest.approx(nats / (len(text) if per == "char" else len(ids) - 1), rel=1e-5)


def test_windows_count_each_token_once_with_enough_before_it(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = " ".join(TRAIN * 2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    net = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]
    window, stride = 12, 5
    nats, scored = 0.0, 1
    for start in range(0, len(ids), stride):
        part = ids[start : start + window]
        with torch.no_grad():
            log = net(torch.tensor([part])).logits[0].log_softmax(-1)
        for i in range(scored, start + len(part)):
            nats -= float(log[i - start - 1, ids[i]])
        scored = max(scored, start + len(part))
    got = Perplexity(model=str(folder), max_tokens=window, stride=stride).score(texts(text))[0]
    assert len(ids) > 3 * window
    assert got == pytest.approx(nats / (len(ids) - 1), rel=1e-5)
    # More context, other costs: the windows are what was asked for.
    assert Perplexity(model=str(folder)).score(texts(text))[0] != pytest.approx(got, rel=1e-4)


def test_contract_of_networks(folder: Path) -> None:
    check_scorer(lambda: Perplexity(model=str(folder)), texts(*OTHER), texts(None))
    scorer = Perplexity(model=str(folder))
    assert scorer.heavy
    assert not scorer.learns
    assert scorer.fit(texts(*TRAIN)).state() == {}
    assert not Perplexity().heavy
    assert np.isnan(scorer.score(texts(""))[0])


def test_low_precision_stays_near(folder: Path) -> None:
    exact = Perplexity(model=str(folder)).score(texts(*OTHER))
    rough = Perplexity(model=str(folder), dtype="bfloat16").score(texts(*OTHER))
    np.testing.assert_allclose(rough, exact, rtol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 0}, r"order must be 1\.\.16, got 0"),
        ({"per": "word"}, "per must be char"),
        ({"per": "token"}, "not of ngram"),
        ({"max_tokens": 1}, "max_tokens must be >= 2"),
        ({"max_tokens": 8, "stride": 8}, r"stride must be 1\.\.max_tokens - 1, got 8 of 8"),
        ({"batch_tokens": 0}, "batch_tokens must be >= 1"),
        ({"dtype": "int8"}, "dtype must be float32"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Perplexity(**options)  # type: ignore[arg-type]


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no causal language model at") as caught:
        Perplexity(model=str(tmp_path)).score(texts("a"))
    assert "\n" not in str(caught.value)
    assert Perplexity(model=str(tmp_path)).score({"text": texts()["text"]}).shape == (0,)
