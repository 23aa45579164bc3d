"""Shortening of text: what says least goes, so that more of the rest fits a model's limit of tokens.

In this order: stop words, punctuation, words outside of a vocabulary, words that were there before; then the
first `max_tokens` tokens of what is left.

Reference: M. A. Mutasodirin, R. E. Prasojo, A. F. Abka, H. Rasyidi, "Simple Hack for Transformers against
    Heavy Long-Text Classification on a Time- and Memory-Limited GPU Service", 2024,
    https://arxiv.org/abs/2403.12563
Departure: a transform learns nothing, so that rows need not be read twice; rare words go by a vocabulary with
    document frequencies, which `document_frequencies` makes of training texts.
Cost: O(characters).
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ray_app.methods._words import TOKEN, ModelTokens, english_stopwords
from ray_app.methods.transforms._text import TextTransform


class Shorten(TextTransform):
    """Where texts are longer than the model reads, or than there is time for.

    Dropping stop words helps most. They hold the negations: for sentiment, name those in `keep`. Models
    pre-trained with punctuation want it kept.

    Args:
        stopwords: `english` (scikit-learn's list), a list of words, or None: none go.
        keep: Words that stay whatever else says that they go.
        punctuation: `keep` or `drop`.
        vocabulary: Words to keep: a list, a mapping word → documents that have it, or a file with one word a
            line, a tab and that number after it where there is one; None: all.
        min_df: Least number of documents of a word of the vocabulary that is kept.
        drop_recurring: Keep only the first occurrence of each word in a text.
        max_tokens: The most that is left; None: all.
        tokenizer: A model's `tokenizer.json`, or its folder, whose tokens `max_tokens` counts; None: words
            and marks.
        column: The column with the texts.
    """

    def __init__(
        self,
        *,
        stopwords: Literal["english"] | Sequence[str] | None = None,
        keep: Sequence[str] = (),
        punctuation: Literal["keep", "drop"] = "keep",
        vocabulary: Mapping[str, int] | Sequence[str] | str | None = None,
        min_df: int = 1,
        drop_recurring: bool = False,
        max_tokens: int | None = None,
        tokenizer: str | None = None,
        column: str = "text",
    ) -> None:
        super().__init__(column=column)
        if punctuation not in ("keep", "drop"):
            raise ValueError(f"shorten: punctuation must be keep or drop, got {punctuation!r}")
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"shorten: max_tokens must be >= 1, got {max_tokens!r}; try 128")
        if min_df < 1 or (min_df > 1 and vocabulary is None):
            raise ValueError(f"shorten: min_df={min_df!r} needs a vocabulary with numbers, and must be >= 1")
        if tokenizer is not None and max_tokens is None:
            raise ValueError("shorten: tokenizer counts max_tokens, which is not given; give both or none")
        self.punctuation = punctuation
        self.drop_recurring = drop_recurring
        self.max_tokens = max_tokens
        self._stopwords = _stopwords(stopwords) - {word.casefold() for word in keep}
        self._keep = {word.casefold() for word in keep}
        self._vocabulary = None if vocabulary is None else _vocabulary(vocabulary, min_df)
        self._tokens = ModelTokens(tokenizer, "shorten") if tokenizer is not None else None

    @staticmethod
    def document_frequencies(texts: Iterable[str]) -> dict[str, int]:
        """Return word → number of texts that have it, the most frequent first; for `vocabulary`.

        Args:
            texts: Training texts: test texts must not say what is rare.
        """
        found: Counter[str] = Counter()
        for text in texts:
            found.update({word.casefold() for word in TOKEN.findall(text) if _is_word(word)})
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def _change(self, text: str, row_id: str) -> str:
        return self._cut("".join(self._kept(text)))

    def _kept(self, text: str) -> Iterable[str]:
        """Yield what is left of a text, with what was between its tokens."""
        seen: set[str] = set()
        end, dropped, first = 0, False, True
        for match in TOKEN.finditer(text):
            gap, end = text[end : match.start()], match.end()
            if not self._wanted(match.group().casefold(), seen):
                dropped = True
                continue
            # A word must not grow together with the one before what went.
            yield ("" if first else " ") if dropped else gap
            yield match.group()
            dropped = first = False

    def _wanted(self, word: str, seen: set[str]) -> bool:
        if not _is_word(word):
            return self.punctuation == "keep"
        if word in self._keep:
            return True
        if word in self._stopwords or (self._vocabulary is not None and word not in self._vocabulary):
            return False
        if self.drop_recurring and word in seen:
            return False
        seen.add(word)
        return True

    def _cut(self, text: str) -> str:
        if self.max_tokens is None:
            return text
        spans = (
            self._tokens.spans(text)
            if self._tokens is not None
            else [match.span() for match in TOKEN.finditer(text)]
        )
        return text if len(spans) <= self.max_tokens else text[: spans[self.max_tokens - 1][1]]


def _is_word(token: str) -> bool:
    return bool(re.match(r"\w", token))


def _stopwords(given: Literal["english"] | Sequence[str] | None) -> set[str]:
    if given is None:
        return set()
    if given == "english":
        return set(english_stopwords())
    if isinstance(given, str):
        raise ValueError(f"shorten: stopwords must be english or a list of words, got {given!r}")
    return {word.casefold() for word in given}


def _vocabulary(given: Mapping[str, int] | Sequence[str] | str, min_df: int) -> set[str]:
    if isinstance(given, str):
        try:
            lines = Path(given).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"shorten: vocabulary {given!r} cannot be read ({error})") from error
        rows = [line.partition("\t") for line in lines if line.strip()]
        if any(tab and not number.strip().isdecimal() for _, tab, number in rows):
            raise ValueError(f"shorten: vocabulary {given!r} must have `word`, or `word<tab>number`, a line")
        counted = {word.strip(): int(number) for word, tab, number in rows if tab}
        given = counted if len(counted) == len(rows) else [word.strip() for word, _, _ in rows]
    if isinstance(given, Mapping):
        return {word.casefold() for word, number in given.items() if number >= min_df}
    if min_df > 1:
        raise ValueError(f"shorten: min_df={min_df} needs the vocabulary's numbers; give word → documents")
    return {word.casefold() for word in given}
