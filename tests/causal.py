"""Tiny causal language models for tests: random weights and a tokenizer of a few texts, in a folder."""

from collections.abc import Sequence
from pathlib import Path

from ray_app.papers._language_models import save, sequences_of, small_model, tokenizer_of, train


def tiny_model(folder: Path, texts: Sequence[str], *, seed: int = 0, steps: int = 0) -> Path:
    """Return the folder of a GPT-2 with two layers of width 16 that sees 64 tokens.

    Args:
        folder: Where to make it.
        texts: Its tokenizer is learned from them, and it, where it is trained.
        seed: Of its weights and its training.
        steps: Of training; 0: none.
    """
    tokenizer = tokenizer_of(texts, vocabulary=300)
    net = small_model(tokenizer, dim=16, layers=2, heads=2, max_tokens=64, seed=seed)
    if steps:
        train(net, sequences_of(tokenizer, texts, 63), steps=steps, batch_size=4, lr=1e-2, seed=seed)
    return Path(save(net, tokenizer, folder / f"model-{seed}-{steps}"))
