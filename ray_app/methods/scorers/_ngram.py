"""A character n-gram model with Witten-Bell interpolation: counts in sorted arrays, no Python object a gram.

    P_k(c | h) = (n(h c) + t(h) P_{k-1}(c | h')) / (n(h) + t(h))          P_0 = 1 / (alphabet + 1)

h: the k-1 characters before c (a text begins with k-1 blanks), h': without its first; n: how often, t: how
many different characters followed. Where h never occurred, P_k = P_{k-1}. All characters that the model has
not seen are one symbol, so that probabilities over alphabet and symbol sum to 1.

Reference: S. F. Chen, J. Goodman, "An empirical study of smoothing techniques for language modeling",
    Computer Speech & Language 1999; I. H. Witten, T. C. Bell, "The zero-frequency problem", IEEE Transactions
    on Information Theory 1991.
Departure: grams are known by 64-bit hashes; two of 10^7 grams share one with probability 3e-6.
Cost: fit O(order n log n) for n characters; score O(order n log m) for m different grams.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

_BEGIN, _UNKNOWN, _FIRST = 0, 1, 2
_ODD = np.uint64(0x9E3779B97F4A7C15)
# So many characters at once: what memory scoring takes.
_BLOCK = 2**20


class CharacterModel:
    """What follows what in the texts that it was fitted on.

    Args:
        order: Characters in the longest gram.
    """

    def __init__(self, order: int) -> None:
        self.order = order
        self.alphabet = np.zeros(0, dtype=np.uint32)
        """Code points, ascending."""
        self.grams: list[np.ndarray] = []
        """An order's hashes, uint64 ascending."""
        self.counts: list[np.ndarray] = []
        """int64, of each gram."""
        self.contexts: list[np.ndarray] = []
        """Hashes of what grams begin with, uint64 ascending."""
        self.totals: list[np.ndarray] = []
        """int64, grams that begin so."""
        self.types: list[np.ndarray] = []
        """int64, different ones of them."""

    def fit(self, texts: Sequence[str]) -> "CharacterModel":
        """Forget, then count."""
        points = np.concatenate([_points(text) for text in texts]) if texts else self.alphabet[:0]
        self.alphabet = np.unique(points)
        del points
        codes, real = self._codes(texts)
        self.grams, self.counts, self.contexts, self.totals, self.types = [], [], [], [], []
        for grams, contexts in _hashes(codes, real, self.order):
            kinds, first, counts = np.unique(grams, return_index=True, return_counts=True)
            begins, which = np.unique(contexts[first], return_inverse=True)
            self.grams.append(kinds)
            self.counts.append(counts.astype(np.int64))
            self.contexts.append(begins)
            self.totals.append(np.bincount(which, counts, len(begins)).astype(np.int64))
            self.types.append(np.bincount(which, minlength=len(begins)).astype(np.int64))
        return self

    def losses(self, texts: Sequence[str]) -> np.ndarray:
        """Return float64 [n]: minus the log probability of each text in nats; 0 for an empty one."""
        parts = [self._losses(part) for part in _blocks(texts)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def state(self) -> dict[str, np.ndarray]:
        """Return every array by name."""
        levels = ("grams", "counts", "contexts", "totals", "types")
        return {
            "alphabet": self.alphabet,
            **{f"{name}.{k}": array for name in levels for k, array in enumerate(getattr(self, name), 1)},
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> "CharacterModel":
        """Take over what `state` gave.

        Raises:
            ValueError: It is no such model's, or one of another order.
        """
        orders = sum(name.startswith("grams.") for name in state)
        if orders != self.order or "alphabet" not in state:
            raise ValueError(
                f"perplexity: the state is of order {orders}, not {self.order}; give the order of its fit"
            )
        self.alphabet = np.asarray(state["alphabet"], dtype=np.uint32)
        for name in ("grams", "counts", "contexts", "totals", "types"):
            kind = np.uint64 if name in ("grams", "contexts") else np.int64
            setattr(self, name, [np.asarray(state[f"{name}.{k}"], kind) for k in range(1, orders + 1)])
        return self

    def _losses(self, texts: Sequence[str]) -> np.ndarray:
        codes, real = self._codes(texts)
        probability = np.full(len(real), 1 / (len(self.alphabet) + 1))
        for level, (grams, contexts) in enumerate(_hashes(codes, real, self.order)):
            count = _looked_up(grams, self.grams[level], self.counts[level])
            total = _looked_up(contexts, self.contexts[level], self.totals[level])
            types = _looked_up(contexts, self.contexts[level], self.types[level])
            known = total > 0
            probability[known] = (count[known] + types[known] * probability[known]) / (
                total[known] + types[known]
            )
        ends = np.cumsum([0, *map(len, texts)])
        sums = np.concatenate([[0.0], np.cumsum(-np.log(probability))])
        return sums[ends[1:]] - sums[ends[:-1]]

    def _codes(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of characters with blanks before each text, and the positions that are no blanks."""
        lead = self.order - 1
        codes = np.full(sum(map(len, texts)) + lead * len(texts), _BEGIN, dtype=np.uint64)
        real = np.zeros(len(codes), dtype=bool)
        at = 0
        for text in texts:
            span = slice(at + lead, at + lead + len(text))
            points = _points(text)
            place = np.searchsorted(self.alphabet, points)
            place[place == len(self.alphabet)] = 0
            known = self.alphabet[place] == points if len(self.alphabet) else np.zeros(len(points), bool)
            codes[span] = np.where(known, place + _FIRST, _UNKNOWN)
            real[span] = True
            at = span.stop
        return codes, np.flatnonzero(real)


def _hashes(codes: np.ndarray, at: np.ndarray, order: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For k = 1..order: hashes of the k characters that end at each position, and of the k-1 before it."""
    shorter = np.zeros(len(codes), dtype=np.uint64)
    for k in range(1, order + 1):
        # The character k-1 places back joins last, so a level costs one pass over the one before it.
        back = np.concatenate([np.zeros(k - 1, dtype=np.uint64), codes[: len(codes) - k + 1]])
        longer = _mixed(shorter, back)
        # Before a text's first character there are its own blanks, unless there is no room for any.
        yield longer[at], np.zeros(len(at), np.uint64) if k == 1 else shorter[at - 1]
        shorter = longer


def _mixed(hashes: np.ndarray, codes: np.ndarray) -> np.ndarray:
    mixed = (hashes + codes + np.uint64(1)) * _ODD
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    return mixed


def _looked_up(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """values[where keys are wanted], 0 where they are not."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=values.dtype)
    place = np.searchsorted(keys, wanted)
    place[place == len(keys)] = 0
    return np.where(keys[place] == wanted, values[place], 0)


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _blocks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = size = 0
    for row, text in enumerate(texts):
        if size and size + len(text) > _BLOCK:
            yield texts[start:row]
            start, size = row, 0
        size += len(text)
    if start < len(texts):
        yield texts[start:]
