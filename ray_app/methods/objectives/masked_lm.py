"""Masked language modelling: tokens that were hidden are told from the text around them.

    loss = -(1/m) sum_{chosen tokens} log softmax(W h + b)[token]        nats

A share of a text's tokens is chosen, special ones never. Of these, 80 % are shown as the mask, 10 % as a
random token, 10 % as they are. h: the encoder's last hidden state there; W: a decoder of the objective's own.

Reference: J. Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding", NAACL 2019, Section 3.1, https://arxiv.org/abs/1810.04805
Departure: the decoder is not tied to the embeddings and has no layer in between; no next-sentence prediction.
    A batch in which chance chose nothing has loss 0.
Cost: one forward pass, and a product of the chosen tokens [m, d] by [d, vocabulary].
"""

import math
from collections.abc import Collection
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_app.methods.encoders import Encoder
from ray_app.methods.objectives import Objective, TrainBatch


class MaskedLM(Objective):
    """Use it to pre-train a text encoder on any text.

    Args:
        dim: Width of the encoder's hidden states.
        vocabulary: How many tokens its tokenizer knows.
        mask: The token that hides another.
        special: Tokens that are never chosen, such as those for padding, beginning and end.
        rate: Share of tokens that are chosen.
        seed: Of the decoder's initial weights.
    """

    labels: ClassVar[Literal["none"]] = "none"

    def __init__(
        self,
        *,
        dim: int,
        vocabulary: int,
        mask: int,
        special: Collection[int] = (),
        rate: float = 0.15,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < rate < 1:
            raise ValueError(f"masked_lm: rate must be > 0 and < 1, got {rate!r}; BERT has 0.15")
        if not 0 <= mask < vocabulary:
            raise ValueError(
                f"masked_lm: mask must be a token in 0..{vocabulary - 1}, got {mask!r}; ask the tokenizer"
            )
        self.vocabulary, self.mask, self.rate = vocabulary, mask, rate
        self.special = sorted({*special, mask})
        # Uninitialised: torch would draw the weights from its global generator.
        self.decode = nn.utils.skip_init(nn.Linear, dim, vocabulary)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.decode.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(dim), 1 / math.sqrt(dim), generator=generator)

    def loss(
        self, model: Encoder, batch: TrainBatch, step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return `loss`, and `accuracy`: the share of chosen tokens that were most probable.

        Raises:
            TypeError: The inputs are no texts of one window.
        """
        inputs = batch.inputs
        if isinstance(inputs, Tensor) or inputs["input_ids"].ndim != 2:
            raise TypeError("masked_lm: needs input_ids [n, t]; give a text encoder with `long: cut`")
        shown, chosen = self._hidden(inputs["input_ids"], inputs["attention_mask"], generator)
        tokens = model({**inputs, "input_ids": shown}, want={"tokens"}).tokens
        logits, truth = self.decode(tokens[chosen]), inputs["input_ids"][chosen]
        # The sum over nothing is 0, and differentiable; the mean would be nan.
        loss = F.cross_entropy(logits, truth, reduction="sum") / max(1, len(truth))
        right = (logits.detach().argmax(1) == truth).float().sum() / max(1, len(truth))
        return {"loss": loss, "accuracy": right}

    def _hidden(self, ids: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What is shown, int64 [n, t], and which tokens were chosen, bool [n, t]."""
        choice, way = torch.rand(2, *ids.shape, generator=generator).to(ids.device)
        random = torch.randint(self.vocabulary, ids.shape, generator=generator).to(ids.device)
        usual = mask.bool() & ~torch.isin(ids, torch.tensor(self.special, device=ids.device))
        chosen = usual & (choice < self.rate)
        shown = torch.where(chosen & (way < 0.8), self.mask, ids)
        return torch.where(chosen & (way >= 0.8) & (way < 0.9), random, shown), chosen
