"""Mahalanobis: how far a row lies from the nearest class, in standard deviations that all classes share.

    d_l(x) = min_c (f_l(x) - mean_lc)^T S_l^-1 (f_l(x) - mean_lc)       in [0, inf), for each layer l
    S_l    = (1 / n) sum_c sum_{i in c} (f_l(x_i) - mean_lc)(f_l(x_i) - mean_lc)^T
    x_l'   = x - noise * sign(grad_x d_l(x))                            the step towards normal, a layer each
    score  = sum_l log d_l(x_l')                                        combine: sum_log, in log of variances
           = bias + sum_l weight_l d_l(x_l')                            combine: logistic, in logits
           = d_last(x_last')                                            combine: last, in variances

Reference: K. Lee, K. Lee, H. Lee, J. Shin, "A Simple Unified Framework for Detecting Out-of-Distribution
    Samples and Adversarial Attacks", NeurIPS 2018, https://arxiv.org/abs/1807.03888
Departure: sum_log needs no abnormal rows and is not in the paper; the step is in pixels of 0..1, not of the
    normalised input, and the shared covariance is shrunk a little, so that dead units do no harm; the
    logistic regression's weights are not negative (see _combination).
Cost: fit O(n d^2) time and O(c d + d^2) state a layer; score O(n d (d / 2 + c)) a layer; with noise, a
    forward and a backward pass and another forward pass a layer, on top.
"""

from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor

from ray_app.errors import NotFittedError
from ray_app.methods._checks import finite, indices, matrix, some
from ray_app.methods._covariance import Moments, check_shrinkage
from ray_app.methods.detectors import Combinable
from ray_app.methods.detectors._combination import combination
from ray_app.methods.detectors._whitened import Whitened
from ray_app.methods.encoders import Encoder, Features

_POOLED = "pooled"
# Below it a squared distance counts as this: a row equal to a class mean has a finite logarithm.
_LEAST_DISTANCE = 1e-12


class Mahalanobis(Combinable):
    """The first choice against far-off inputs and attacks: sees what the last layer has thrown away.

    New classes are learned with `partial_fit`, from sums alone. Labels may be left out: all rows are then one
    class.

    Args:
        layers: `all` the encoder's layers, `last`: the pooled features alone, or names of layers (`pooled` is
            one).
        noise: Step of the input preprocessing, in pixel units (0..1); 0: none. Needs the encoder.
        combine: How the layers' distances make one score. `logistic` needs `fit_combiner`.
        shrinkage: Share of an isotropic covariance mixed into the measured one, or `oas`: estimated, for few
            rows.
        encoder: What made the features, in eval mode; supplied by the engine, needed for noise > 0.
    """

    counts: Tensor  # float64 [c]: rows of each class
    layer_names: Tensor  # uint8: the layers' names, joined by newlines, in UTF-8
    combiner: Tensor  # float64 [l + 1]: a weight for each layer, then the bias; empty before fit_combiner
    # and for each layer i: means_i float64 [c, d], scatter_i float64 [d, d]
    growing = ("means_", "scatter_")

    def __init__(
        self,
        *,
        layers: Literal["all", "last"] | Sequence[str] = "all",
        noise: float = 0.0,
        combine: Literal["sum_log", "logistic", "last"] = "sum_log",
        shrinkage: float | Literal["oas"] = 1e-6,
        encoder: Encoder | None = None,
    ) -> None:
        super().__init__()
        if isinstance(layers, str) and layers not in ("all", "last"):
            raise ValueError(f"mahalanobis: layers must be all, last or a list of names, got {layers!r}")
        if not layers:
            raise ValueError("mahalanobis: layers is an empty list; name at least one, or say all")
        if combine not in ("sum_log", "logistic", "last"):
            raise ValueError(f"mahalanobis: combine must be sum_log, logistic or last, got {combine!r}")
        if not 0 <= noise < 1:
            raise ValueError(f"mahalanobis: noise must be in 0..1 (pixel units), got {noise!r}; try 0.0014")
        check_shrinkage(shrinkage, "mahalanobis")
        if noise and encoder is None:
            raise ValueError(
                f"mahalanobis: noise={noise} needs the encoder; pass encoder=, or leave noise out"
            )
        self.layers = layers if isinstance(layers, str) else tuple(layers)
        self.noise = noise
        self.combine = combine
        self.shrinkage = shrinkage
        # In a tuple, so that its weights are not part of this module's state.
        self._encoder: tuple[Encoder, ...] = () if encoder is None else (encoder,)
        reads_layers = self.layers not in ("last", (_POOLED,))
        self.needs = frozenset([*(["layers"] if reads_layers else []), *(["input_grad"] if noise else [])])
        self.register_buffer("counts", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("layer_names", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("combiner", torch.zeros(0, dtype=torch.float64))

    def fit(self, features: Features, labels: Tensor | None = None) -> Self:
        """Forget, then learn from n rows of the chosen layers; labels int64 [n], None: all are one class.

        Raises:
            ValueError: No rows, rows that are not finite, a layer that the features lack, or bad labels.
        """
        some(len(features), "mahalanobis")
        for name in [n for n in self._buffers if n.startswith(self.growing)]:
            del self._buffers[name]
        for name in ("counts", "layer_names", "combiner"):
            setattr(self, name, torch.zeros_like(getattr(self, name)[:0]))
        return self.partial_fit(features, labels)

    def partial_fit(self, features: Features, labels: Tensor | None = None) -> Self:
        """Learn from more rows, of old or new classes; no rows (n = 0) change nothing.

        Raises:
            ValueError: See fit.
        """
        n = len(features)
        if n == 0:
            return self
        chosen = self._chosen(features)
        if labels is None:
            labels = torch.zeros(n, dtype=torch.int64, device=features.pooled.device)
        labels = indices(labels, n, "mahalanobis")
        c = int(labels.max()) + 1
        # All checks come first: nothing is learned from a batch of which one layer is bad.
        rows = {
            layer: finite(matrix(x.detach(), "mahalanobis", width), "mahalanobis")
            for (layer, x), width in zip(chosen.items(), self._widths() or [0] * len(chosen), strict=True)
        }
        return self._add(list(rows), [Moments.of(x, labels, c, tied=True) for x in rows.values()])

    def merge(self, other: Self) -> Self:
        """Learn what `other` learned; equals one fit on both sets of rows. Its combiner is not taken over.

        Raises:
            ValueError: It learned from other layers, or from layers of other widths.
        """
        if not len(other.counts):
            return self
        if len(self.counts) and other._widths() != self._widths():
            raise ValueError(
                f"mahalanobis: cannot merge layers of widths {other._widths()} into {self._widths()}; "
                "use the same encoder for both"
            )
        return self._add(other._names(), other._moments())

    def score(self, features: Features) -> Tensor:
        """Return float32 [n], higher is more abnormal; see the module for the scale of each `combine`.

        Raises:
            NotFittedError: Nothing was learned yet; for `logistic`, fit_combiner was not called.
            ValueError: The features lack a layer, or the inputs that noise needs, or have another width.
        """
        distances = self.distances(features)
        if self.combine == "last":
            return distances[:, -1]
        if self.combine == "sum_log":
            return distances.double().clamp(min=_LEAST_DISTANCE).log().sum(1).float()
        if not len(self.combiner):
            raise NotFittedError(
                "mahalanobis: combine=logistic has no weights yet; call fit_combiner(), or use sum_log"
            )
        return (distances.double() @ self.combiner[:-1] + self.combiner[-1]).float()

    def distances(self, features: Features) -> Tensor:
        """Return float32 [n, l]: squared distances to the nearest class in each layer that `combine` reads.

        Raises:
            NotFittedError: Nothing was learned yet.
            ValueError: See score.
        """
        if not len(self.counts):
            raise NotFittedError("mahalanobis: nothing learned yet; call fit() or load a bundle")
        whitened = self.derive("whitened", self._whiten)
        names = self._names()
        used = range(len(names))[-1:] if self.combine == "last" else range(len(names))
        columns = []
        for i in used:
            seen = self._perturbed(features, names[i], whitened[i]) if self.noise else features
            x = matrix(_layer(seen, names[i]), "mahalanobis", len(whitened[i].high))
            columns.append(whitened[i].nearest(x))
        return torch.stack(columns, 1)

    @property
    def learns_combination(self) -> bool:
        """Whether its options ask for learned weights."""
        return self.combine == "logistic"

    def fit_combiner(self, normal: Features, abnormal: Features) -> Self:
        """Learn the layers' weights by logistic regression: normal rows [n] against abnormal rows [m].

        Raises:
            NotFittedError: Nothing was learned yet.
            ValueError: One of the sets is empty.
        """
        some(min(len(normal), len(abnormal)), "mahalanobis (fit_combiner)")
        with torch.no_grad():
            parts = self.distances(normal), self.distances(abnormal)
        self.combiner = combination(*parts).to(self.counts.device)
        return self

    def _chosen(self, features: Features) -> dict[str, Tensor]:
        if len(self.counts):
            names: Sequence[str] = self._names()
        elif self.layers == "all":
            names = list(features.layers)
            if not names:
                raise ValueError("mahalanobis: the features have no layers; want them, or set layers: last")
        else:
            names = [_POOLED] if self.layers == "last" else self.layers
        return {name: _layer(features, name) for name in names}

    def _add(self, names: Sequence[str], news: Sequence[Moments]) -> Self:
        olds = (
            self._moments()
            if len(self.counts)
            else [Moments.none(tied=True).to(self.counts.device)] * len(news)
        )
        sums = [old.add(new.to(self.counts.device)) for old, new in zip(olds, news, strict=True)]
        for i, total in enumerate(sums):
            self.register_buffer(f"means_{i}", total.means)
            self.register_buffer(f"scatter_{i}", total.scatter)
        names_bytes = bytearray("\n".join(names).encode())
        self.layer_names = torch.frombuffer(names_bytes, dtype=torch.uint8).clone().to(self.counts.device)
        self.counts = sums[0].counts.clone()
        return self

    def _moments(self) -> list[Moments]:
        return [
            Moments(self.counts, self.get_buffer(f"means_{i}"), self.get_buffer(f"scatter_{i}"), tied=True)
            for i in range(len(self._names()))
        ]

    def _whiten(self) -> list[Whitened]:
        whitened = []
        for name, moments in zip(self._names(), self._moments(), strict=True):
            try:
                whitened.append(Whitened.of(moments, self.shrinkage))
            except ValueError as error:
                raise ValueError(f"mahalanobis: layer {name}: {error}") from error
        return whitened

    def _names(self) -> list[str]:
        return bytes(self.layer_names.tolist()).decode().split("\n") if len(self.layer_names) else []

    def _widths(self) -> list[int]:
        return [self.get_buffer(f"scatter_{i}").shape[1] for i in range(len(self._names()))]

    def _perturbed(self, features: Features, layer: str, whitened: Whitened) -> Features:
        if not isinstance(features.inputs, Tensor):
            raise ValueError("mahalanobis: noise > 0 needs the features' inputs as a tensor; want inputs")
        (encoder,) = self._encoder
        want = () if layer == _POOLED else ("layers",)
        # The engine may be in inference mode; a gradient needs tensors that were made outside of it.
        with torch.inference_mode(mode=False), torch.enable_grad():
            pixels = features.inputs.detach().clone()
            pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
            pixels.requires_grad_()
            distance = whitened.nearest(_layer(encoder(pixels, want), layer)).sum()
            (gradient,) = torch.autograd.grad(distance, pixels)
        with torch.no_grad():
            return encoder(pixels.detach() - self.noise * gradient.sign(), want)


def _layer(features: Features, name: str) -> Tensor:
    if name == _POOLED:
        return features.pooled
    if name not in features.layers:
        known = ", ".join(features.layers) or "none"
        raise ValueError(
            f"mahalanobis: the features lack layer {name!r} (layers: {known}); want layers of this encoder"
        )
    return features.layers[name]
