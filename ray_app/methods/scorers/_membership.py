"""What membership is told by: losses of tokens, gradients, and what one step of training does."""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ray_app.methods._causal import CausalModel, Dtype

NORMS = (1.0, 2.0, float("inf"))
# Below it, the logarithm of a norm says nothing.
_LEAST_NORM = 1e-30


class Signals:
    """Two models, ready; every method returns one number a text, NaN where a text has nothing to predict.

    Args:
        model: Folder or name of the model that may have seen the texts.
        base: Of the one that it was fine-tuned from; None: not known.
        revision: Which version of both on the hub.
        dtype: Of the weights.
        device: Where they compute.
        max_tokens: Most tokens of a text that are looked at; None: what the model can take, up to 1024.
        batch_tokens: Most tokens in a forward pass.

    Raises:
        ValueError: A model is not there, or the two have different tokenizers.
    """

    def __init__(
        self,
        model: str,
        base: str | None,
        *,
        revision: str | None,
        dtype: Dtype,
        device: str,
        max_tokens: int | None,
        batch_tokens: int,
    ) -> None:
        self.model, *others = (
            CausalModel(source, name="membership", revision=revision, dtype=dtype, device=device)
            for source in (model, base)
            if source is not None
        )
        self.base = others[0] if others else None
        if self.base is not None and self.base.tokenizer.get_vocab() != self.model.tokenizer.get_vocab():
            raise ValueError(
                f"membership: {model!r} and {base!r} have different tokenizers; give the base that the model"
                " was fine-tuned from"
            )
        models, begin = (self.model, *others), len(self.model.begin)
        usual = min(each.usual for each in models) - begin
        self.most = min(max_tokens or usual, min(each.limit for each in models) - begin)
        self.batch_tokens = batch_tokens

    def to(self, device: str) -> None:
        """Move both models."""
        for each in (self.model, self.base):
            if each is not None:
                each.net.to(device)

    def token_losses(self, texts: Sequence[str], model: CausalModel | None = None) -> list[np.ndarray]:
        """Return what each token of a text costs a model, nats."""
        tokens = self.model.tokens(texts, self.most)
        window = self.most + len(self.model.begin)
        return (model or self.model).token_losses(
            tokens, window=window, stride=window, batch_tokens=self.batch_tokens
        )

    def losses(self, texts: Sequence[str], model: CausalModel | None = None) -> np.ndarray:
        """Return each text's mean loss."""
        return np.array([_mean(each) for each in self.token_losses(texts, model)])

    def dearest(self, texts: Sequence[str], share: float) -> np.ndarray:
        """Return the mean loss of the tokens that cost most, at least one."""
        found = self.token_losses(texts)
        return np.array([_mean(np.sort(each)[-max(1, int(share * len(each))) :]) for each in found])

    def bytes_compressed(self, texts: Sequence[str]) -> np.ndarray:
        """Return how long each text is, compressed by zlib."""
        return np.array([len(zlib.compress(text.encode("utf-8", "surrogatepass"))) for text in texts], float)

    def gradient_norms(self, texts: Sequence[str], p: float) -> np.ndarray:
        """Return the p-norm of the gradient of each text's loss with respect to all weights."""
        return np.array([_norm(gradients.values(), p) for _, gradients in self._gradients(texts)])

    def steps(self, texts: Sequence[str], lr: float) -> tuple[np.ndarray, np.ndarray]:
        """Return each text's loss before and after one step on it alone."""
        found = [
            self.model.stepped_loss(tokens, lr) if len(tokens) > 1 else (np.nan, np.nan)
            for tokens in self.model.tokens(texts, self.most)
        ]
        return np.array([one[0] for one in found]), np.array([one[1] for one in found])

    def features(self, texts: Sequence[str], sketch: "Sketch") -> np.ndarray:
        """Return float64 [n, f]: the loss, and what a sketch keeps of the gradient."""
        rows = [
            [loss, *sketch.of(gradients)] if gradients else [np.nan]
            for loss, gradients in self._gradients(texts)
        ]
        width = max(map(len, rows), default=1)
        return np.array([row if len(row) == width else [np.nan] * width for row in rows]).reshape(-1, width)

    def _gradients(self, texts: Sequence[str]) -> Iterator[tuple[float, Mapping[str, Tensor]]]:
        """One at a time: a gradient is as large as the model."""
        for tokens in self.model.tokens(texts, self.most):
            yield self.model.gradients(tokens) if len(tokens) > 1 else (np.nan, {})


class Sketch:
    """Keeps a few numbers of a gradient for each layer: random sums with signs, and logarithms of norms.

        y_j = sum over i = j (mod dim) of s_i g_i,    s_i = -1 or 1        so that E ||y||^2 = ||g||^2

    Signs come from the seed and a parameter's name, so that all processes agree without sending any.

    Args:
        dim: Sums for each layer.
        seed: Of the signs.
    """

    def __init__(self, dim: int, seed: int) -> None:
        self.dim = dim
        self.seed = seed
        self._signs: dict[str, Tensor] = {}

    def of(self, gradients: Mapping[str, Tensor]) -> list[float]:
        """Return what is kept, layer after layer in the order of their names."""
        layers: dict[str, list[str]] = {}
        for name in gradients:
            layers.setdefault(_layer(name), []).append(name)
        kept: list[float] = []
        for _, names in sorted(layers.items()):
            sums = torch.stack([self.projected(name, gradients[name]) for name in names]).sum(0)
            norms = [_norm([gradients[name] for name in names], p) for p in NORMS]
            kept += [*sums.tolist(), *(float(np.log(max(norm, _LEAST_NORM))) for norm in norms)]
        return kept

    def projected(self, name: str, gradient: Tensor) -> Tensor:
        """Return float32 [dim] of one parameter's gradient."""
        flat = gradient.flatten().float()
        signs = self._signs.get(name)
        if signs is None or signs.device != flat.device:
            # torch's generator on the CPU looks at 32 bits of a seed only.
            generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{name}".encode()))
            drawn = torch.randint(2, flat.shape, generator=generator, dtype=torch.int8)
            signs = self._signs[name] = (2 * drawn - 1).to(flat.device)
        signed = torch.nn.functional.pad(flat * signs, (0, -len(flat) % self.dim))
        return signed.view(-1, self.dim).sum(0)


def _layer(parameter: str) -> str:
    """The block that a parameter is of: its name up to the first number, or without its last part."""
    parts = parameter.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return ".".join(parts[: number + 1] if number is not None else parts[:-1])


def _norm(gradients: Iterable[Tensor], p: float) -> float:
    norms = [float(torch.linalg.vector_norm(each.float(), ord=p)) for each in gradients]
    return float(np.linalg.norm(norms, ord=p)) if norms else float("nan")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
