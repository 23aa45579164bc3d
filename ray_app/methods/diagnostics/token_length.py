"""Token length: how long texts are for each of several tokenizers, and what a limit cuts off.

    fertility = tokens / words
    cut_at_L  = share of texts with more than L tokens
    kept_at_L = share of all tokens that are within the first L of their text

The tokenizer with the shortest output fits most content into a model's limit.

Reference: M. A. Mutasodirin, R. E. Prasojo, A. F. Abka, H. Rasyidi, "Simple Hack for Transformers against
    Heavy Long-Text Classification on a Time- and Memory-Limited GPU Service", 2024,
    https://arxiv.org/abs/2403.12563
Cost: O(characters) for each tokenizer.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ray_app.methods._words import TOKEN, ModelTokens
from ray_app.methods.diagnostics import Diagnostic


class TokenLength(Diagnostic):
    """Before choosing a model and its limit for long texts.

    Args:
        limits: Numbers of tokens to report on.
    """

    def __init__(self, *, limits: Sequence[int] = (128, 256, 512)) -> None:
        if not limits or any(limit < 1 for limit in limits):
            raise ValueError(f"token_length: limits must be numbers of tokens >= 1, got {limits!r}")
        self.limits = list(limits)

    def report(
        self, texts: Sequence[str], tokenizers: Mapping[str, str | None]
    ) -> dict[str, list[str] | list[float]]:
        """Return a table with a row for each tokenizer, shortest output first.

        Columns `tokenizer`, `mean`, `p50`, `p95`, `fertility`, and for each limit `cut_at_L`, `kept_at_L`.

        Args:
            texts: At least one.
            tokenizers: Name → its `tokenizer.json` or folder; None: words and marks.

        Raises:
            ValueError: No texts, or a tokenizer that cannot be read.
        """
        if not len(texts):
            raise ValueError("token_length: no texts to measure; is the split empty?")
        words = sum(1 for text in texts for token in TOKEN.findall(text) if token[0].isalnum())
        rows = []
        for name, path in tokenizers.items():
            lengths = np.array(_lengths(texts, path), dtype=np.float64)
            row: dict[str, str | float] = {
                "tokenizer": name,
                "mean": float(lengths.mean()),
                "p50": float(np.quantile(lengths, 0.5)),
                "p95": float(np.quantile(lengths, 0.95)),
                "fertility": float(lengths.sum() / max(words, 1)),
            }
            for limit in self.limits:
                row[f"cut_at_{limit}"] = float((lengths > limit).mean())
                row[f"kept_at_{limit}"] = float(np.minimum(lengths, limit).sum() / max(lengths.sum(), 1))
            rows.append(row)
        rows.sort(key=lambda row: float(row["mean"]))
        return {column: [row[column] for row in rows] for column in (rows[0] if rows else [])}  # type: ignore[misc]


def _lengths(texts: Sequence[str], path: str | None) -> list[int]:
    if path is None:
        return [len(TOKEN.findall(text)) for text in texts]
    tokens = ModelTokens(path, "token_length")
    return [len(tokens.spans(text)) for text in texts]
