"""Hashed words against counting them by name."""

import re
from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ray_app.errors import NotFittedError
from ray_app.methods.scorers.hashed_text import HashedText
from ray_app.testing.scorers import check_scorer

WANTED = ["a Theorem about convex sets", "the proof of this lemma is short", "convex functions, and a proof"]
UNWANTED = ["buy now!!! cheap watches", "cheap cheap deals, buy now", "win a prize now!", ""]


def batch(*values: object, label: list[int] | None = None) -> dict[str, np.ndarray]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return {"text": column} | ({"label": np.array(label)} if label else {})


BOTH = batch(*WANTED, *UNWANTED, label=[1, 1, 1, 0, 0, 0, 0])


@pytest.mark.parametrize("ngrams", [1, 2, 3])
def test_it_is_logistic_regression_on_normalised_counts(ngrams: int) -> None:
    def counted(text: str) -> Counter[str]:
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        return Counter(
            " ".join(words[i : i + n]) for n in range(1, ngrams + 1) for i in range(len(words) - n + 1)
        )

    names = sorted({gram for text in BOTH["text"] for gram in counted(text)})

    def vectors(texts: list[str]) -> np.ndarray:
        rows = np.array([[counted(text)[name] for name in names] for text in texts], dtype=float)
        norms = [np.sqrt(sum(n * n for n in counted(text).values())) for text in texts]
        return rows / np.maximum(norms, 1e-12)[:, None]

    slow = LogisticRegression(C=3.0, class_weight="balanced", max_iter=5000, tol=1e-8)
    slow.fit(vectors(list(BOTH["text"])), BOTH["label"])
    new = ["a short proof", "Cheap sets, now", "nothing known", ""]
    expected = slow.predict_proba(vectors(new))[:, 1]
    got = HashedText(ngrams=ngrams, C=3.0).fit(BOTH, BOTH["label"]).score(batch(*new))
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_few_buckets_still_tell_kinds_apart() -> None:
    score = HashedText(buckets=64).fit(BOTH, BOTH["label"]).score(BOTH)
    assert score[:3].min() > score[3:].max()


def test_labels_that_are_not_both_kinds_are_refused() -> None:
    for labels in (None, [1] * 7, [0, 1, 2, 0, 0, 0, 0], [0.0, 1.0] + [0.0] * 5, [0, 1]):
        with pytest.raises(ValueError, match=r"hashed_text: (no labels|labels are)"):
            HashedText().fit(BOTH, None if labels is None else np.array(labels))
    with pytest.raises(ValueError, match="row 1 of 'text' is NoneType"):
        HashedText().fit(batch("a", None), np.array([0, 1]))


def test_a_state_of_other_buckets_is_refused() -> None:
    state = HashedText(buckets=64).fit(BOTH, BOTH["label"]).state()
    with pytest.raises(ValueError, match=r"'weights': \[64\].*expected 128 weights"):
        HashedText(buckets=128).load_state(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ngrams": 0}, "got 0; try 2"), ({"buckets": 1}, "got 1; try"), ({"C": 0}, "C must be > 0, got 0")],
)
def test_wrong_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HashedText(**options)  # type: ignore[arg-type]


def test_contract() -> None:
    check_scorer(HashedText, BOTH, batch(None, label=[1]))
    with pytest.raises(NotFittedError, match="fit: <split>"):
        HashedText().state()
