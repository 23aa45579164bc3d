"""Causal language models from a folder or a hub: what each token of a text costs them, and its gradients.

    loss(x) = -(1/N) sum_i log p(x_i | x_<i)          in nats, over the N tokens after the first

A text is preceded by the model's beginning-of-text token (end-of-text, where it has only that one), so that
its own first token counts too; a model with neither leaves it out.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Dtype = Literal["float32", "bfloat16", "float16"]
# Tokens at once where nobody says: the logits of more of them take gigabytes with a large vocabulary.
_USUAL_LENGTH = 1024


class _Window(NamedTuple):
    """Tokens start..stop of a sequence, of which those from `scored` on count."""

    row: int
    start: int
    stop: int
    scored: int


class CausalModel:
    """A model and its tokenizer, in eval mode.

    Args:
        source: A folder, or a name on the hub.
        name: Of the method that asks, for errors.
        revision: Which version on the hub.
        dtype: Of the weights.
        device: Where it computes.

    Raises:
        ValueError: There is no such model, or no tokenizer beside it.
    """

    def __init__(
        self,
        source: str,
        *,
        name: str,
        revision: str | None = None,
        dtype: Dtype = "float32",
        device: str = "cpu",
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source, revision=revision)
            # Nothing here unpickles, so the older .bin files are refused.
            self.net: Any = AutoModelForCausalLM.from_pretrained(
                source,
                revision=revision,
                use_safetensors=True,
                dtype=getattr(torch, dtype),
                attn_implementation="sdpa",
            )
        except (OSError, ValueError) as error:
            first = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"{name}: no causal language model at {source!r} ({first}); give its folder or name"
            ) from error
        self.name = name
        self.net.train(mode=False).requires_grad_(requires_grad=False).to(device)
        begin = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        self.begin = next(([token] for token in begin if token is not None), [])
        limit = getattr(self.net.config, "max_position_embeddings", None)
        self.limit = limit if isinstance(limit, int) and limit > 0 else _USUAL_LENGTH
        self.usual = min(self.limit, _USUAL_LENGTH)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(iter(self.net.parameters())).device

    def tokens(self, texts: Sequence[str], most: int | None = None) -> list[list[int]]:
        """Return the tokens of each text, cut off after `most` of its own, with the beginning in front.

        Args:
            texts: Any number.
            most: None: all of them.
        """
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [[*self.begin, *row[:most]] for row in encoded]

    @torch.inference_mode()
    def token_losses(
        self, sequences: Sequence[Sequence[int]], *, window: int, stride: int, batch_tokens: int
    ) -> list[np.ndarray]:
        """Return float64 [t-1] for each sequence of t tokens: minus the log probability of all but the first.

        A sequence longer than the window is read in windows that begin a stride apart; a token counts once,
        in the first window that holds it, so it has at least window - stride tokens before it.

        Args:
            sequences: What `tokens` returned.
            window: Most tokens that the model sees at once.
            stride: Between windows.
            batch_tokens: Most tokens in a batch, padding included; one window always fits.
        """
        losses = [np.zeros(max(0, len(sequence) - 1)) for sequence in sequences]
        windows = [w for row, s in enumerate(sequences) for w in _windows(row, len(s), window, stride)]
        # Alike in length: little padding.
        windows.sort(key=lambda one: one.start - one.stop)
        for batch in _batches(windows, batch_tokens):
            pieces = [sequences[one.row][one.start : one.stop] for one in batch]
            found = self._batch(pieces).cpu().double().numpy()
            for one, row in zip(batch, found, strict=True):
                counted = slice(one.scored - one.start - 1, one.stop - one.start - 1)
                losses[one.row][one.scored - 1 : one.stop - 1] = row[counted]
        return losses

    def gradients(self, sequence: Sequence[int]) -> tuple[float, dict[str, Tensor]]:
        """Return the loss of one sequence, and its gradient with respect to each parameter by name."""
        with _wanted(self.net) as parameters, torch.enable_grad():
            loss = self._loss(sequence)
            found = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        return float(loss.detach()), dict(zip(parameters, found, strict=True))

    def stepped_loss(self, sequence: Sequence[int], lr: float) -> tuple[float, float]:
        """Return the loss of one sequence before and after one step of gradient descent on it alone.

        The weights are restored from copies: in low precision, adding the step back would not cancel it.
        """
        before, gradients = self.gradients(sequence)
        parameters = dict(self.net.named_parameters())
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        with torch.no_grad():
            try:
                for name, parameter in parameters.items():
                    parameter.sub_(gradients[name], alpha=lr)
                after = float(self._loss(sequence))
            finally:
                for name, parameter in parameters.items():
                    parameter.copy_(kept[name])
        return before, after

    def continued(
        self, prefixes: Sequence[Sequence[int]], tokens: int, generator: torch.Generator
    ) -> list[list[int]]:
        """Return each prefix with so many more tokens, drawn from the model's own probabilities.

        Args:
            prefixes: Token sequences of equal length.
            tokens: How many to add.
            generator: The only source of chance; on the CPU.
        """
        ids = torch.tensor([list(prefix) for prefix in prefixes], device=self.device)
        with torch.no_grad():
            for _ in range(tokens):
                proba = self.net(input_ids=ids, use_cache=False).logits[:, -1].float().softmax(-1).cpu()
                drawn = torch.multinomial(proba, 1, generator=generator)
                ids = torch.cat([ids, drawn.to(ids.device)], dim=1)
        return [[int(token) for token in row] for row in ids.tolist()]

    def _loss(self, sequence: Sequence[int]) -> Tensor:
        ids = torch.tensor([list(sequence)], device=self.device)
        logits = self.net(input_ids=ids, use_cache=False).logits[0, :-1]
        return cross_entropy(logits.float(), ids[0, 1:])

    def _batch(self, pieces: Sequence[Sequence[int]]) -> Tensor:
        """Float32 [b, t-1]: what each token but the first costs; anything where a piece has ended."""
        longest = max(map(len, pieces))
        ids = torch.zeros(len(pieces), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, piece in enumerate(pieces):
            ids[row, : len(piece)] = torch.tensor(piece)
            mask[row, : len(piece)] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        logits = self.net(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        return cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")


def save(net: nn.Module, tokenizer: Any, folder: Path) -> Path:
    """Write a model of the transformers library and its tokenizer to a folder, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "model"
        net.save_pretrained(made)  # type: ignore[operator]
        tokenizer.save_pretrained(made)
        made.rename(folder)
    return folder


@contextmanager
def _wanted(net: nn.Module) -> Iterator[dict[str, Tensor]]:
    """All parameters; within it, gradients with respect to them may be asked for."""
    net.requires_grad_(requires_grad=True)
    try:
        yield dict(net.named_parameters())
    finally:
        net.requires_grad_(requires_grad=False)


def _windows(row: int, length: int, window: int, stride: int) -> Iterator[_Window]:
    scored = 1
    for start in range(0, length, stride):
        stop = min(start + window, length)
        if scored < stop:
            yield _Window(row, start, stop, scored)
        if stop == length:
            return
        scored = stop


def _batches(windows: Sequence[_Window], tokens: int) -> Iterator[Sequence[_Window]]:
    """Windows are in descending length, so that the first one says how wide its batch is."""
    start = 0
    while start < len(windows):
        width = windows[start].stop - windows[start].start
        stop = start + max(1, tokens // width)
        yield windows[start:stop]
        start = stop
