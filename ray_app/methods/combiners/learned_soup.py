"""Learned soup: the candidates' shares in the mean are learned by gradient on validation rows.

    theta = sum_i a_i theta_i,   a = softmax(w) over candidates, for the whole model or each tensor
    minimise over w and b:  mean_j cross_entropy( exp(b) f(x_j; theta), y_j )

The derivative needs no candidate beside another: dL/da_i = <dL/dtheta, theta_i>, and tensors come one at a
time. The temperature exp(b) keeps shares from being bent to mend the logits' scale; it does not change what
is most probable, and is left behind.

Reference: M. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time", ICML 2022, Recipe 2 and Appendix I, https://arxiv.org/abs/2203.05482
Departure: the shares after each epoch are judged by the sweep's metric on validation rows, and the best of
    them, the uniform start among them, are kept. `layers` means tensors.
Cost: steps * 2 k reads of the weights, tensor by tensor, a forward and a backward pass a step, an evaluation
    an epoch; the network and its gradient in memory.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate, Step, Weights
from ray_app.methods.combiners._merge import Mix, checked_top, soup, wide


class LearnedSoup(Combiner):
    """Use it when many validation rows are there: it learns from them, so it can also learn them by heart.

    Args:
        layers: Learn shares for each tensor, not one for the whole model.
        epochs: Passes over the validation rows.
        lr: Of AdamW, for w and b.
        batch_size: Validation rows of a step.
        top: Use only the best so many candidates; None: all.
        seed: Of the order of rows.
    """

    def __init__(
        self,
        *,
        layers: bool = False,
        epochs: int = 5,
        lr: float = 0.05,
        batch_size: int = 128,
        top: int | None = None,
        seed: int = 0,
    ) -> None:
        if min(epochs, batch_size) < 1 or not lr > 0:
            raise ValueError(
                "learned_soup: epochs and batch_size must be >= 1 and lr > 0, got "
                f"{epochs!r}, {batch_size!r} and {lr!r}"
            )
        self.layers, self.epochs, self.lr, self.batch_size, self.seed = layers, epochs, lr, batch_size, seed
        self.top = checked_top("learned_soup", top)

    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        """Learn shares; see Combiner.make."""
        used = candidates[: self.top]
        opened = [candidate.load() for candidate in used]
        mix = Mix(opened[0], evaluate)
        row = {name: index if self.layers else 0 for index, name in enumerate(mix.names)}
        wanted = torch.zeros(len(mix.names) if self.layers else 1, len(opened), requires_grad=True)
        log_temperature = torch.zeros((), requires_grad=True)

        def at(shares: Tensor) -> Weights:
            return mix.weights(lambda name: _mixed(opened, name, shares[row[name]]))

        best = shares = torch.softmax(wanted.detach(), 1)
        value = soup(at(shares), evaluate)[1]
        steps = [Step(used[0].name, value, kept=False, gain=value - used[0].value, note="uniform")]
        optimizer = torch.optim.AdamW([wanted, log_temperature], lr=self.lr, weight_decay=0.0)
        for epoch in range(1, self.epochs + 1):
            for rows in self._batches(evaluate.size, epoch):
                shares = torch.softmax(wanted, 1)
                found = evaluate.gradient(at(shares.detach()), rows, log_temperature.item())
                optimizer.zero_grad()
                shares.backward(_slopes(opened, found.weights, row, shares.detach()))
                log_temperature.grad = torch.tensor(found.log_temperature)
                optimizer.step()
            shares = torch.softmax(wanted.detach(), 1)
            tried = soup(at(shares), evaluate)[1]
            note = f"epoch {epoch}: temperature {math.exp(log_temperature.item()):.3g}"
            steps.append(Step(used[0].name, tried, kept=False, gain=tried - value, note=note))
            if tried > value:
                best, value = shares, tried
        of_each = best.mean(0).tolist()
        steps += [
            Step(one.name, value, kept=True, gain=value - used[0].value, note=f"share {share:.4f}")
            for one, share in zip(used, of_each, strict=True)
        ]
        made = evaluate.recalibrate(at(best))
        return Combined([made], [one.name for one in used], value, steps)

    def _batches(self, n: int, epoch: int) -> Iterator[Tensor]:
        if n < 1:
            raise ValueError("learned_soup: the evaluator has no rows to learn from; give it validation rows")
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        yield from torch.randperm(n, generator=generator).split(self.batch_size)


def _mixed(opened: Sequence[Weights], name: str, shares: Tensor) -> Tensor:
    total = wide(opened[0][name]) * shares[0]
    for weights, share in zip(opened[1:], shares[1:], strict=True):
        total.add_(wide(weights[name]), alpha=share.item())
    return total


def _slopes(opened: Sequence[Weights], gradient: Weights, row: dict[str, int], shares: Tensor) -> Tensor:
    """Derivatives with respect to the shares, shaped like them."""
    slopes = torch.zeros_like(shares, dtype=torch.float64)
    for name in (name for name in row if name in gradient):
        slope = gradient[name].flatten().double()
        for index, weights in enumerate(opened):
            slopes[row[name], index] += torch.dot(slope, wide(weights[name]).flatten().double())
    return slopes.to(shares.dtype)
