"""Heuristics: the share of the usual rules of thumb for web text that a text passes.

    score = rules passed / rules                in [0, 1]; or one signal as it is

A rule is a signal with a least and a most value, both allowed. Words are runs between white space, lines and
paragraphs end at one and at two line feeds; shares are in 0..1.

    words                   how many
    mean_word_length        characters
    symbol_ratio            hash signs and ellipses for each word
    bullet_lines            share of lines that begin with a bullet
    ellipsis_lines          share of lines that end in an ellipsis
    punctuated_lines        share of lines that end in a full stop, an exclamation or question mark or a quote
    short_lines             share of lines of at most 30 characters
    alphabetic_words        share of words with a letter in them
    stop_words              how many different stop words occur
    repeated_lines          share of lines that occurred before; repeated_line_chars: by characters
    repeated_paragraphs     the same of paragraphs; repeated_paragraph_chars
    top_N_grams             share of the words' characters in the N words that occur most, N = 2, 3, 4
    repeated_N_grams        share of the words' characters in any N words that occur twice, N = 5..10
    braces                  curly brackets; boilerplate: lines that speak of JavaScript, cookies, lorem ipsum

Reference: J. W. Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
    2021, https://arxiv.org/abs/2112.11446 (appendix A: most rules and their limits); C. Raffel et al.,
    "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020,
    https://arxiv.org/abs/1910.10683 (braces, boilerplate); G. Penedo et al., "The FineWeb Datasets", 2024,
    https://arxiv.org/abs/2406.17557 (punctuated_lines, short_lines, repeated_line_chars)
Departure: they drop a text that fails one rule; a score lets a selector decide. All words of an N-gram that
    occurs twice count as repeated, its first occurrence included.
Cost: O(words) with a sort for each N.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ray_app.methods.scorers import Scorer
from ray_app.methods.scorers._text import score_texts

if TYPE_CHECKING:
    from ray_app.methods import Batch

_NO_LIMIT = (None, None)
_LIMITS: Mapping[str, tuple[float | None, float | None]] = {
    "words": (50, 100_000),
    "mean_word_length": (3, 10),
    "symbol_ratio": (None, 0.1),
    "bullet_lines": (None, 0.9),
    "ellipsis_lines": (None, 0.3),
    "punctuated_lines": (0.12, None),
    "short_lines": (None, 0.67),
    "alphabetic_words": (0.8, None),
    "stop_words": (2, None),
    "repeated_lines": (None, 0.3),
    "repeated_line_chars": (None, 0.1),
    "repeated_paragraphs": (None, 0.3),
    "repeated_paragraph_chars": (None, 0.2),
    **{f"top_{n}_grams": (None, most) for n, most in ((2, 0.2), (3, 0.18), (4, 0.16))},
    **{f"repeated_{n}_grams": (None, (20 - n) / 100) for n in range(5, 11)},
    "braces": (None, 0),
    "boilerplate": (None, 0),
}
_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_BULLETS = ("\u2022", "\u2023", "\u25cf", "\u25cb", "\u25aa", "\u2043", "- ", "* ")
_ELLIPSES = ("...", "\u2026")
_ENDS = (".", "!", "?", '"', "'", "\u201d", "\u2019")
_SHORT = 30
_BOILERPLATE = re.compile(r"lorem ipsum|javascript|cookie policy|uses cookies|privacy policy|terms of use")
# Any odd number with bits everywhere; see Knuth on multiplicative hashing.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Heuristics(Scorer):
    """Finds menus, lists, code, spam and repetition without a model; knows nothing of what is said.

    Args:
        signal: Score this signal itself instead of the share of rules.
        limits: Signal → [least, most] in place of the usual ones, null where there is none; null instead of
            a pair leaves the rule out.
        stop_words: In lower case; those of the language that is wanted.
        column: Holds the text.
    """

    def __init__(
        self,
        *,
        signal: str | None = None,
        limits: Mapping[str, Sequence[float | None] | None] | None = None,
        stop_words: Sequence[str] = _STOP_WORDS,
        column: str = "text",
    ) -> None:
        self.signal = signal
        for name in [*([signal] if signal is not None else []), *(limits or {})]:
            if name not in _LIMITS:
                raise ValueError(f"heuristics: unknown signal {name!r} (signals: {', '.join(_LIMITS)})")
        if isinstance(stop_words, str):
            raise ValueError(f"heuristics: stop_words must be a list of words, got {stop_words!r}")
        given = {name: _pair(name, pair) for name, pair in (limits or {}).items()}
        self.limits = {name: pair for name, pair in {**_LIMITS, **given}.items() if pair is not None}
        if not self.limits:
            raise ValueError("heuristics: limits leave no rule; keep one")
        self.stop_words = frozenset(stop_words)
        self.columns = (column,)
        low, high = _LIMITS[signal] if signal is not None else _NO_LIMIT
        self.higher_is_better = low is not None or high is None

    def score(self, batch: "Batch") -> np.ndarray:
        """Return float64 [n]; NaN for a row that is no string."""
        return score_texts(batch, self.columns[0], lambda texts: [self._one(text) for text in texts])

    def signals(self, text: str) -> dict[str, float]:
        """Return every signal of a text, by name."""
        words = text.split()
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
        lower = {word.lower().strip(".,;:!?\"'()") for word in words}
        symbols = text.count("#") + sum(text.count(mark) for mark in _ELLIPSES)
        return {
            "words": float(len(words)),
            "mean_word_length": _mean([len(word) for word in words]),
            "symbol_ratio": symbols / max(1, len(words)),
            "bullet_lines": _mean([line.startswith(_BULLETS) for line in lines]),
            "ellipsis_lines": _mean([line.endswith(_ELLIPSES) for line in lines]),
            "punctuated_lines": _mean([line.endswith(_ENDS) for line in lines]),
            "short_lines": _mean([len(line) <= _SHORT for line in lines]),
            "alphabetic_words": _mean([any(map(str.isalpha, word)) for word in words]),
            "stop_words": float(len(self.stop_words & lower)),
            **dict(zip(("repeated_lines", "repeated_line_chars"), _repeated(lines), strict=True)),
            **dict(
                zip(("repeated_paragraphs", "repeated_paragraph_chars"), _repeated(paragraphs), strict=True)
            ),
            **_grams(words),
            "braces": float(text.count("{") + text.count("}")),
            "boilerplate": float(sum(_BOILERPLATE.search(line.lower()) is not None for line in lines)),
        }

    def _one(self, text: str) -> float:
        found = self.signals(text)
        if self.signal is not None:
            return found[self.signal]
        passed = [
            (low is None or found[name] >= low) and (high is None or found[name] <= high)
            for name, (low, high) in self.limits.items()
        ]
        return sum(passed) / len(passed)


def _pair(name: str, pair: Sequence[float | None] | None) -> tuple[float | None, float | None] | None:
    if pair is None:
        return None
    if isinstance(pair, str) or len(pair) != 2:
        raise ValueError(
            f"heuristics: the limits of {name} must be [least, most], got {pair!r}; null where there is none"
        )
    low, high = pair
    if low is not None and high is not None and low > high:
        raise ValueError(f"heuristics: the limits of {name} are {pair!r}; the first must not be the larger")
    return low, high


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _repeated(parts: Sequence[str]) -> tuple[float, float]:
    """Shares of the parts, and of their characters, that occurred before."""
    if not parts:
        return 0.0, 0.0
    first = set(parts)
    whole = sum(map(len, parts))
    return 1 - len(first) / len(parts), 1 - sum(map(len, first)) / whole


def _grams(words: Sequence[str]) -> dict[str, float]:
    """The shares of characters in frequent and in repeated N-grams."""
    result = {name: 0.0 for name in _LIMITS if name.endswith("_grams")}
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.uint64)
    hashes = ids
    for n in range(2, min(10, len(words)) + 1):
        hashes = hashes[:-1] * _MULTIPLIER + ids[n - 1 :] + np.uint64(1)
        kinds, kind, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        if f"top_{n}_grams" in result and counts.max() > 1:
            # Its occurrences may overlap: its words count once.
            result[f"top_{n}_grams"] = _covered(kind == _first_most(kind, counts), n, lengths)
        if f"repeated_{n}_grams" in result and len(kinds) < len(hashes):
            result[f"repeated_{n}_grams"] = _covered(counts[kind] > 1, n, lengths)
    return result


def _first_most(kind: np.ndarray, counts: np.ndarray) -> int:
    """Of the most frequent kinds, the one that occurs first: hashes must not decide."""
    return int(kind[np.argmax(counts[kind])])


def _covered(starts: np.ndarray, n: int, lengths: np.ndarray) -> float:
    """Share of characters in words that an N-gram beginning at `starts` covers."""
    edges = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.add.at(edges, np.flatnonzero(starts), 1)
    np.add.at(edges, np.flatnonzero(starts) + n, -1)
    return float(lengths[np.cumsum(edges[:-1]) > 0].sum() / max(1, lengths.sum()))
