"""Small causal language models that a single core trains in seconds, and their tokenizers."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ray_app import registry
from ray_app.methods import _causal

_BEGIN, _PAD = "<s>", "<pad>"
_NOT_A_TARGET = -100


def tokenizer_of(texts: Sequence[str], vocabulary: int = 2000) -> Any:
    """Return a byte-pair tokenizer, learned from texts; no text is unknown to it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_BEGIN, _PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, bos_token=_BEGIN, pad_token=_PAD)


def small_model(
    tokenizer: Any, *, dim: int = 64, layers: int = 2, heads: int = 4, max_tokens: int = 128, seed: int = 0
) -> Any:
    """Return an untrained GPT-2 of a small size, on the CPU.

    Args:
        tokenizer: Of its texts.
        dim: Width of its hidden states.
        layers: How many.
        heads: In each.
        max_tokens: Most that it can see at once, the beginning included.
        seed: Of its weights.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=max_tokens,
        n_embd=dim,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # transformers draws initial weights from the global generator: lend it a seeded one.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251
        return GPT2LMHeadModel(config)


def sequences_of(tokenizer: Any, texts: Sequence[str], most: int) -> list[list[int]]:
    """Return the tokens of each text, cut off after `most` of its own, with the beginning in front."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [[tokenizer.bos_token_id, *row[:most]] for row in encoded]


def packed(tokenizer: Any, texts: Sequence[str], length: int) -> list[list[int]]:
    """Return all texts one after the other, each with the beginning in front, cut into equal sequences."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    stream = [token for row in encoded for token in (tokenizer.bos_token_id, *row)]
    return [stream[start : start + length] for start in range(0, len(stream) - 1, length)]


def train(
    net: Any,
    sequences: Sequence[Sequence[int]],
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    warmup: float = 0.0,
    after: Callable[[int], None] | None = None,
) -> Any:
    """Train a model in place with AdamW, in passes over shuffled sequences, and return it in eval mode.

    Args:
        net: What trains.
        sequences: Token sequences, of any lengths.
        steps: Batches in all.
        batch_size: Sequences in each.
        lr: Learning rate; constant, or after the warm-up down to 0 along a cosine.
        seed: Of the order.
        warmup: Share of the steps; 0: the rate is constant throughout.
        after: Called after each step with the number of steps made.
    """
    net.train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr)
    batches = _batches(len(sequences), batch_size, seed)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * _rate(step / steps, warmup)
        inputs, targets = _padded([sequences[row] for row in next(batches)])
        logits = net(input_ids=inputs, use_cache=False).logits[:, :-1]
        loss = cross_entropy(
            logits.reshape(-1, logits.shape[-1]), targets[:, 1:].reshape(-1), ignore_index=_NOT_A_TARGET
        )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        if after is not None:
            net.eval()
            after(step + 1)
            net.train()
    return net.eval()


def taught(tokenizer: Any, texts: Sequence[str], folder: Path, *, steps: int, seed: int) -> Any:
    """Return a perplexity scorer, nats a character, whose small model was trained on texts.

    Args:
        tokenizer: Of the model; scores are comparable where it is the same.
        texts: Cut into sequences without regard to where one ends.
        folder: Where the model is kept.
        steps: Batches; the number of passes follows from it.
        seed: Of the start and the order.
    """
    net = small_model(tokenizer, seed=seed)
    sequences = packed(tokenizer, texts, 64)
    train(net, sequences, steps=steps, batch_size=16, lr=3e-3, warmup=0.1, seed=seed)
    path = save(net, tokenizer, Path(tempfile.mkdtemp(dir=folder)) / "model")
    return registry.build("scorers", "perplexity", {"model": path, "per": "char"})


def save(net: Any, tokenizer: Any, folder: Path) -> str:
    """Write both to a folder that any scorer of language models can read; return its path."""
    return str(_causal.save(net, tokenizer, folder))


def _rate(progress: float, warmup: float) -> float:
    if warmup == 0:
        return 1.0
    if progress < warmup:
        return (progress + 1e-3) / warmup
    return 0.5 * (1 + float(np.cos(np.pi * (progress - warmup) / (1 - warmup))))


def _batches(n: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(n)
        for start in range(0, n, batch_size):
            yield order[start : start + batch_size]


def _padded(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Tokens int64 [b, t], and the same as targets, which padding is not."""
    longest = max(map(len, sequences))
    inputs = torch.zeros(len(sequences), longest, dtype=torch.int64)
    targets = torch.full_like(inputs, _NOT_A_TARGET)
    for row, sequence in enumerate(sequences):
        inputs[row, : len(sequence)] = targets[row, : len(sequence)] = torch.tensor(sequence)
    return inputs, targets
