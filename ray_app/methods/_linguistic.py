"""Linguistic preprocessings: a text to the features that a bag of them would count.

No tagger is needed: stems, tags and chunks come from rules for English, coarse but the same everywhere.
"""

import re
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

from ray_app.methods._words import TOKEN, english_stopwords

Unit: TypeAlias = Literal["token", "stem", "tag", "token_tag", "chunk", "char", "ending"]

_NUMBER = re.compile(r"\d[\d.,_]*\Z")
_WORD = re.compile(r"\w")
_VOWEL = re.compile(r"[aeiouy]")
# The longest that fits goes; what stays has a vowel and three letters at least.
_SUFFIXES = (
    ("ational", "ate"), ("ization", "ize"), ("fulness", "ful"), ("iveness", "ive"), ("ousness", "ous"),
    ("ations", "ate"), ("ation", "ate"), ("ments", ""), ("ment", ""), ("ness", ""), ("ingly", ""),
    ("edly", ""), ("ities", "ity"), ("ings", ""), ("ing", ""), ("sses", "ss"), ("ies", "y"), ("ied", "y"),
    ("ers", ""), ("er", ""), ("ed", ""), ("ly", ""), ("es", ""), ("ss", "ss"), ("s", ""),
)  # fmt: skip
_TAGS = (
    ("ADV", ("ly",)),
    ("VERB", ("ing", "ed", "ize", "ise", "ify", "ate")),
    ("ADJ", ("ous", "ful", "able", "ible", "al", "ive", "less", "ic")),
    ("NOUN", ("tion", "sion", "ment", "ness", "ity", "ance", "ence", "ship", "er", "or", "ism", "ist")),
    ("PLURAL", ("s",)),
)


class Linguistic:
    """Units of a text, filtered, and joined to n-grams.

    Args:
        unit: `token`; `stem`; `tag`, a coarse part of speech; `token_tag`, both joined; `chunk`, runs of
            words between stop words and marks; `char`, a character; `ending`, a word's last letter.
        stop: `keep` stop words, `drop` them, or keep them `only`.
        alpha: Keep only words of letters.
        lower: Regard upper and lower case as one.
        n: Units in a row that make one feature.
    """

    def __init__(
        self,
        *,
        unit: Unit = "token",
        stop: Literal["keep", "drop", "only"] = "keep",
        alpha: bool = False,
        lower: bool = True,
        n: int = 1,
    ) -> None:
        if unit not in get_args(Unit):
            raise ValueError(f"linguistic: unit must be one of {', '.join(get_args(Unit))}; got {unit!r}")
        if stop not in ("keep", "drop", "only"):
            raise ValueError(f"linguistic: stop must be keep, drop or only, got {stop!r}")
        if n < 1:
            raise ValueError(f"linguistic: n must be >= 1, got {n!r}; try 1")
        self.unit = unit
        self.stop = stop
        self.alpha = alpha
        self.lower = lower
        self.n = n
        self._stopwords = english_stopwords() if stop != "keep" or unit == "chunk" else frozenset()

    def features(self, text: str) -> list[str]:
        """Return the features in their order, each as often as it occurs."""
        tokens = [token for token in TOKEN.findall(text) if self._wanted(token)]
        units = self._units([token.lower() for token in tokens] if self.lower else tokens)
        if self.n == 1:
            return units
        joint = "" if self.unit == "char" else " "
        return [joint.join(units[i : i + self.n]) for i in range(len(units) - self.n + 1)]

    def _wanted(self, token: str) -> bool:
        if self.alpha and not token.replace("'", "").isalpha():
            return False
        return self.stop == "keep" or (token.lower() in self._stopwords) == (self.stop == "only")

    def _units(self, tokens: list[str]) -> list[str]:
        if self.unit == "token":
            return tokens
        if self.unit == "char":
            return list(" ".join(tokens))
        if self.unit == "chunk":
            return self._chunks(tokens)
        if self.unit == "stem":
            return [stem(token) for token in tokens]
        if self.unit == "ending":
            return [token[-1] for token in tokens]
        tags = [tag(token) for token in tokens]
        if self.unit == "tag":
            return tags
        return [f"{token}_{mark}" for token, mark in zip(tokens, tags, strict=True)]

    def _chunks(self, tokens: list[str]) -> list[str]:
        chunks: list[list[str]] = [[]]
        for token in tokens:
            if token.lower() in self._stopwords or not _WORD.match(token):
                chunks.append([])
            else:
                chunks[-1].append(token)
        return ["_".join(chunk) for chunk in chunks if chunk]


@lru_cache(maxsize=2**16)
def stem(word: str) -> str:
    """Return a word without its commonest English endings."""
    for suffix, instead in _SUFFIXES:
        if word.endswith(suffix):
            rest = word.removesuffix(suffix)
            if len(rest) >= 3 and _VOWEL.search(rest):
                return rest + instead
    return word


@lru_cache(maxsize=2**16)
def tag(token: str) -> str:
    """Return a coarse part of speech by a token's form: its length if it is short, else its ending."""
    if not _WORD.match(token):
        return "MARK"
    if _NUMBER.match(token):
        return "NUMBER"
    if len(token) <= 3:
        return f"SHORT{len(token)}"
    for name, endings in _TAGS:
        if token.endswith(endings):
            return name
    return "NAME" if token[:1].isupper() else "WORD"
