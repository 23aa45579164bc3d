"""Paper 16: noise in pre-training labels spreads features' spectrum and costs accuracy; NMTune repairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.encoders import Encoder, Features
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches
from ray_app.papers._cifar import SIZE, cifar10
from ray_app.papers._digits import digits
from ray_app.papers._probe import Probe
from ray_app.papers._rows import Parts, choose, features_of, only, small_net, train_on
from ray_app.papers._transfer import accuracy_on

if TYPE_CHECKING:
    from ray_app.methods import Batch

PAPER = Paper(
    title="Understanding and Mitigating the Label Noise in Pre-training on Downstream Tasks",
    year=2024,
    url="https://arxiv.org/abs/2309.17002",
    methods=["adapters/nmtune", "diagnostics/feature_spectrum"],
    claims=[
        Claim(
            "noise_spreads_the_spectrum",
            "After pre-training on noisy labels the entropy of downstream features' singular values is "
            "higher than after clean ones, in at least 0.8 of the seeds.",
        ),
        Claim(
            "noise_hurts_more_under_shift",
            "A linear probe loses more accuracy to noisy pre-training labels on shifted test rows than on "
            "plain ones.",
        ),
        Claim(
            "repairs_under_shift",
            "On features of the noisily pre-trained network NMTune is at most 0.005 below the better of a "
            "linear probe and the same network without its three terms, on shifted test rows (reference: "
            "above it).",
        ),
        Claim("repairs_plainly", "On plain test rows NMTune is at most 0.005 below the better of both."),
        Claim(
            "takes_correlation_out",
            "NMTune's features have at most half of the squared correlation between dimensions that the same "
            "network's have without its three terms.",
        ),
    ],
)


@dataclass(frozen=True)
class _Recipe:
    pretrain: Callable[[float], Encoder]
    """The share of pre-training labels that are random → a network."""
    parts: Parts
    """Of the downstream task."""
    shifted: Sequence["Batch"]
    """The test rows, changed."""
    rates: Mapping[str, float]
    """Method → learning rate."""
    noises: Sequence[float] = (0.4,)
    """The last one is what is to be repaired; others are for the report."""


_LEAST: Mapping[Scale, float] = {"quick": -0.005, "reference": 0.0}


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on digits (quick) or CIFAR-10 (reference).

    Raises:
        SpecError: The scale is full.
    """
    if scale not in _LEAST:
        raise SpecError(f"nmtune: has no recipe for scale {scale}; use quick or reference")
    seeds = range(3)
    make = _digits if scale == "quick" else _cifar
    found = [_measure(make(seed), seed) for seed in seeds]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    best = {
        where: [max(pair) for pair in zip(each(f"linear_probe: {where}"), each(f"mlp: {where}"), strict=True)]
        for where in ("plain", "shifted")
    }
    more = [float(noisy > clean) for noisy, clean in zip(each("noisy: sve"), each("clean: sve"), strict=True)]
    return [
        reaches("noise_spreads_the_spectrum", more, least=0.8, seeds=seeds, details=details),
        lead(
            "noise_hurts_more_under_shift", each("lost: shifted"), each("lost: plain"), least=0.0, seeds=seeds
        ),
        lead(
            "repairs_under_shift", each("nmtune: shifted"), best["shifted"], least=_LEAST[scale], seeds=seeds
        ),
        lead("repairs_plainly", each("nmtune: plain"), best["plain"], least=-0.005, seeds=seeds),
        lead(
            "takes_correlation_out",
            [-value for value in each("nmtune: correlation")],
            [-0.5 * value for value in each("mlp: correlation")],
            least=0.0,
            seeds=seeds,
        ),
    ]


def _digits(seed: int) -> _Recipe:
    # Six digits to pre-train on, all ten downstream.
    parts = digits(seed)
    known = sorted(np.random.default_rng(seed).permutation(10)[:6].tolist())
    rows = only(choose(parts.train, slice(800)), known)

    def pretrain(noise: float) -> Encoder:
        net = small_net(num_classes=6, channels=1, image_size=16, seed=seed)
        return train_on(net, _relabelled(rows, noise, 6, seed), {"epochs": 8, "lr": 3e-3, "seed": seed})

    few = Parts(choose(parts.train, slice(800, None)), parts.validation, parts.test)
    return _Recipe(
        pretrain,
        few,
        [registry.build("transforms", "gaussian_noise", {"std": 0.15})(parts.test)],
        # The best ones under shift on seeds that are not reported; the paper's 0.001 for the latter two needs
        # more steps than 200 rows give.
        rates={"linear_probe": 1e-2, "mlp": 3e-3, "nmtune": 3e-3},
    )


def _cifar(seed: int) -> _Recipe:
    parts = cifar10(seed, train=11_000)
    known = sorted(np.random.default_rng(seed).permutation(10)[:6].tolist())
    # Whole batches of 64: batch norm of the last stage, a pixel wide, cannot train on a batch of one row.
    rows = choose(only(choose(parts.train, slice(10_000)), known), slice(5760))

    def pretrain(noise: float) -> Encoder:
        net = small_net(num_classes=6, channels=3, image_size=SIZE, seed=seed)
        settings = {"epochs": 8, "lr": 3e-3, "augment": {"shift": 0.1}, "seed": seed}
        return train_on(net, _relabelled(rows, noise, 6, seed), settings)

    few = Parts(choose(parts.train, slice(10_000, None)), parts.validation, parts.test)
    shifts = {"gaussian_noise": {"std": 0.1}, "gaussian_blur": {"sigma": 1.0}, "contrast": {"factor": 0.5}}
    return _Recipe(
        pretrain,
        few,
        [registry.build("transforms", name, options)(parts.test) for name, options in shifts.items()],
        rates={"linear_probe": 1e-2, "mlp": 1e-3, "nmtune": 1e-3},
        noises=(0.05, 0.1, 0.2, 0.4),
    )


def _relabelled(batch: "Batch", noise: float, classes: int, seed: int) -> "Batch":
    """A share of labels drawn anew among all classes: symmetric noise."""
    rng = np.random.default_rng(seed)
    labels = batch["label"].copy()
    rows = rng.permutation(len(labels))[: round(noise * len(labels))]
    labels[rows] = rng.integers(classes, size=len(rows))
    return {**batch, "label": labels}


def _measure(recipe: _Recipe, seed: int) -> dict[str, float]:
    spectrum = registry.build("diagnostics", "feature_spectrum")
    found: dict[str, float] = {}
    for noise in (0.0, *recipe.noises):
        task = _Frozen.of(recipe.pretrain(noise), recipe)
        name = "clean" if noise == 0 else "noisy" if noise == recipe.noises[-1] else f"noise {noise}"
        found |= {f"{name}: {key}": value for key, value in spectrum.report(Features(task.fitted)).items()}
        tuned = task.tuned(None, recipe.rates["linear_probe"], seed)
        found |= {f"{name}: {where}": value for where, value in task.judged(tuned).items()}
    # What is left is about the last network, the one with the most noise.
    for where in ("plain", "shifted"):
        found[f"linear_probe: {where}"] = found[f"noisy: {where}"]
        found[f"lost: {where}"] = found[f"clean: {where}"] - found[f"noisy: {where}"]
    for method, options in {"mlp": {"mse": 0.0, "cov": 0.0, "svd": 0.0}, "nmtune": {}}.items():
        tuned = task.tuned({"name": "nmtune", "seed": seed, **options}, recipe.rates[method], seed)
        found |= {f"{method}: {where}": value for where, value in task.judged(tuned).items()}
        found[f"{method}: correlation"] = task.correlation(tuned)
    return found


@dataclass(frozen=True)
class _Frozen:
    """Standardised features of one network, as a black box would give them."""

    fitted: torch.Tensor
    train: "Batch"
    test: "Batch"
    shifted: Sequence["Batch"]

    @classmethod
    def of(cls, net: Encoder, recipe: _Recipe) -> "_Frozen":
        pooled = features_of(net, recipe.parts.train).pooled
        mean, spread = pooled.mean(0), pooled.std(0).clamp(min=1e-6)

        def batch(rows: "Batch") -> "Batch":
            tensor = (features_of(net, rows).pooled - mean) / spread
            return {"tensor": tensor.numpy(), "label": rows["label"]}

        parts = recipe.parts
        return cls(pooled, batch(parts.train), batch(parts.test), [batch(rows) for rows in recipe.shifted])

    def tuned(self, adapter: Mapping[str, Any] | None, lr: float, seed: int) -> Encoder:
        dim, classes = self.train["tensor"].shape[1], int(self.train["label"].max()) + 1
        settings = {
            "epochs": 30,
            "batch_size": 64,
            "lr": lr,
            "weight_decay": 1e-4,
            "clip": None,
            "seed": seed,
        }
        more = {"adapter": dict(adapter)} if adapter is not None else {}
        return train_on(Probe(dim=dim, num_classes=classes), self.train, {**settings, **more})

    def judged(self, probe: Encoder) -> dict[str, float]:
        shifted = [accuracy_on(probe, rows) for rows in self.shifted]
        return {"plain": accuracy_on(probe, self.test), "shifted": float(np.mean(shifted))}

    @torch.inference_mode()
    def correlation(self, probe: Any) -> float:
        """Mean squared correlation between two dimensions of what the classifier sees of test rows."""
        seen = probe.classifier.nmtune(torch.from_numpy(self.test["tensor"]))
        squares = torch.corrcoef(seen.T).nan_to_num().square()
        d = len(squares)
        return float((squares.sum() - squares.diagonal().sum()) / (d * (d - 1)))
