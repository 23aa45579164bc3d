"""Random subspace: d numbers train, and are projected into all weights.

    w_i = w_i(0) + (P theta)_i                      DID
    w_i = w_i(0) + lambda_l (P theta)_i             SAID, structure aware: a factor for each layer l

P [D, d] is fixed and random, its columns of length about 1; theta = 0 and lambda = 1 at the start. SAID has m
factors for m layers out of the same budget: theta has d - m numbers then. P is dense, with independent normal
entries, or Fastfood: blocks of H G Pi H B, with H the Walsh-Hadamard matrix of the next power of two, B
signs, Pi a permutation and G normal numbers, which costs O(D log d) time and O(D) memory.

The smallest d that gets to 90 % of full fine-tuning is the task's intrinsic dimension:
diagnostics/intrinsic_dimension.

Reference: A. Aghajanyan, S. Gupta, L. Zettlemoyer, "Intrinsic Dimensionality Explains the Effectiveness of
    Language Model Fine-Tuning", ACL 2021, https://arxiv.org/abs/2012.13255; C. Li, H. Farkhoor, R. Liu, J.
    Yosinski, "Measuring the Intrinsic Dimension of Objective Landscapes", ICLR 2018,
    https://arxiv.org/abs/1804.08838; Q. Le, T. Sarlos, A. Smola, "Fastfood", ICML 2013
Departure: Fastfood's blocks have the size of theta's power of two, not of the tensor's. A layer, which has a
    factor, is a module with weights of its own.
Cost: each pass projects anew: dense O(D d), Fastfood O(D log d). d numbers train.
"""

import math
from abc import abstractmethod
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ray_app.methods.adapters import Adapter, train_classifier
from ray_app.methods.adapters._change import Shift, change, settle
from ray_app.methods.adapters._layers import places

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder

# Four gigabytes in float32.
_MOST_DENSE = 2**30
_FACTOR = 64


class Intrinsic(Adapter):
    """Measures how many numbers a task needs; wants a large learning rate (0.1 to 1).

    Args:
        d: How many numbers train.
        projection: How they reach the weights; fastfood for anything but small networks.
        structure_aware: SAID in place of DID.
        classifier: Whether it is in the subspace with everything else, so that d is all there is, as in the
            paper, or trains in full besides.
        seed: Of the projection.
    """

    def __init__(
        self,
        *,
        d: int = 200,
        projection: Literal["fastfood", "dense"] = "fastfood",
        structure_aware: bool = False,
        classifier: Literal["subspace", "full"] = "subspace",
        seed: int = 0,
    ) -> None:
        if d < 1:
            raise ValueError(f"intrinsic: d must be >= 1, got {d!r}; 200 is a start")
        if projection not in ("fastfood", "dense"):
            raise ValueError(f"intrinsic: projection must be fastfood or dense, got {projection!r}")
        if classifier not in ("subspace", "full"):
            raise ValueError(f"intrinsic: classifier must be subspace or full, got {classifier!r}")
        self.d = d
        self.projection = projection
        self.structure_aware = structure_aware
        self.classifier = classifier
        self.seed = seed

    def _check(self, model: "Encoder") -> None:
        if self.classifier == "full":
            super()._check(model)
        chosen = self._chosen(model)
        total, m = sum(p.numel() for p in chosen), len(set(chosen.values()))
        if self.structure_aware and self.d <= m:
            raise ValueError(
                f"intrinsic: d={self.d} leaves nothing beside a factor for each of {m} layers; "
                f"give at least {m + 1}, or structure_aware: false"
            )
        if self.projection == "dense" and total * self.d > _MOST_DENSE:
            raise ValueError(
                f"intrinsic: a dense projection of {self.d} numbers into {total} has {total * self.d:.1e} "
                "entries; use projection: fastfood"
            )

    def _insert(self, model: "Encoder") -> None:
        chosen = self._chosen(model)
        m = len(set(chosen.values())) if self.structure_aware else 0
        subspace = _Subspace(self.d - m, m).to(model.device)
        generator = torch.Generator().manual_seed(self.seed)
        spread = 1 / math.sqrt(sum(parameter.numel() for parameter in chosen))
        kind = _Fastfood if self.projection == "fastfood" else _Dense
        change(
            model,
            {
                parameter: kind(subspace, layer if m else None, parameter.numel(), spread, generator)
                for parameter, layer in chosen.items()
            },
            self.name,
        )
        model.subspace = subspace
        if self.classifier == "full":
            train_classifier(model)

    def _remove(self, model: "Encoder") -> None:
        settle(model)
        del model.subspace

    def _chosen(self, model: "Encoder") -> dict[nn.Parameter, int]:
        """Parameter → the number of its layer; all parameters, each once."""
        apart = (
            set(model.classifier.parameters())
            if self.classifier == "full" and model.classifier is not None
            else set()
        )
        numbers: dict[nn.Module, int] = {}
        return {
            parameter: numbers.setdefault(where[0][0], len(numbers))
            for parameter, where in places(model).items()
            if parameter not in apart
        }


class _Subspace(nn.Module):
    """What trains."""

    def __init__(self, d: int, layers: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(d))
        self.factors = nn.Parameter(torch.ones(layers)) if layers else None


class _Projection(Shift):
    """One tensor's rows of P. What is random is not part of the state: the seed and the shapes say it."""

    def __init__(self, subspace: _Subspace, layer: int | None, n: int) -> None:
        super().__init__()
        # Not as a child: every tensor of the network would list the same parameters in its state.
        self.__dict__["subspace"] = subspace
        self.layer = layer
        self.n = n

    def delta(self, dtype: torch.dtype) -> Tensor:
        subspace: _Subspace = self.__dict__["subspace"]
        projected = self.project(subspace.theta.to(dtype))
        if self.layer is None or subspace.factors is None:
            return projected
        return subspace.factors[self.layer].to(dtype) * projected

    @abstractmethod
    def project(self, theta: Tensor) -> Tensor:
        """[d] → [n]."""


class _Dense(_Projection):
    matrix: Tensor  # [n, d]

    def __init__(
        self, subspace: _Subspace, layer: int | None, n: int, spread: float, generator: torch.Generator
    ) -> None:
        super().__init__(subspace, layer, n)
        drawn = torch.randn(n, len(subspace.theta), generator=generator)
        self.register_buffer("matrix", spread * drawn, persistent=False)

    def project(self, theta: Tensor) -> Tensor:
        return self.matrix.to(theta.dtype) @ theta


class _Fastfood(_Projection):
    signs: Tensor  # int8 [m, b]
    order: Tensor  # int32 [m, b]
    normal: Tensor  # [m, b]

    def __init__(
        self, subspace: _Subspace, layer: int | None, n: int, spread: float, generator: torch.Generator
    ) -> None:
        super().__init__(subspace, layer, n)
        b = 1 << (len(subspace.theta) - 1).bit_length()
        blocks = math.ceil(n / b)
        signs = torch.randint(2, (blocks, b), generator=generator, dtype=torch.int8) * 2 - 1
        order = torch.rand(blocks, b, generator=generator).argsort(1).int()
        normal = torch.randn(blocks, b, generator=generator)
        # A row of H G Pi H B has the length sqrt(b) |g|; now that of d independent normal entries.
        normal = normal * (spread / normal.norm(dim=1, keepdim=True).clamp(min=1e-12))
        for name, values in {"signs": signs, "order": order, "normal": normal}.items():
            self.register_buffer(name, values, persistent=False)

    def project(self, theta: Tensor) -> Tensor:
        padded = nn.functional.pad(theta, (0, self.signs.shape[1] - len(theta)))
        mixed = walsh_hadamard(self.signs * padded).gather(1, self.order.long())
        return walsh_hadamard(self.normal.to(theta.dtype) * mixed).flatten()[: self.n]


def walsh_hadamard(x: Tensor) -> Tensor:
    """Return H x for each row of x [m, b], b a power of two; H has entries 1 and -1, in natural order."""
    m, b = x.shape
    done = 1
    while done < b:
        # H of a product of sizes is a Kronecker product: few matrix products beat log b rounds of sums.
        k = min(_FACTOR, b // done)
        parts = x.view(m, b // (done * k), k, done).transpose(2, 3)
        x = (parts @ _hadamard(k).to(x)).transpose(2, 3).reshape(m, b)
        done *= k
    return x


@cache
def _hadamard(k: int) -> Tensor:
    if k == 1:
        return torch.ones(1, 1)
    half = _hadamard(k // 2)
    return torch.cat([torch.cat([half, half], 1), torch.cat([half, -half], 1)])
