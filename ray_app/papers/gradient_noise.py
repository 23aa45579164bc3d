"""Paper 66: noise on the gradients trains a very deep network from starts that plain descent cannot leave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ray_app.errors import SpecError
from ray_app.metrics.classification import accuracy
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches, stays
from ray_app.papers._digits import CLASSES, digits
from ray_app.papers._mlp import Init, Mlp
from ray_app.papers._rows import rows_of, train_on
from ray_app.tune.training import logits_of

PAPER = Paper(
    title="Adding Gradient Noise Improves Learning for Very Deep Networks",
    year=2015,
    url="https://arxiv.org/abs/1511.06807",
    methods=["objectives/gradient_noise"],
    claims=[
        Claim(
            "zero_start_needs_it",
            "From weights that are all zero, descent without noise learns no more than how frequent classes "
            "are: test accuracy at most 0.15.",
        ),
        Claim(
            "zero_start",
            "From there noise reaches a test accuracy of at least 0.7, on average over restarts.",
        ),
        Claim(
            "simple_start",
            "From weights N(0, 0.1^2) noise leads no noise by at least 0.5, on average over restarts.",
        ),
        Claim(
            "harmless",
            "From He's weights the weakest noise (eta 0.01) costs at most 0.03 of test accuracy, on average "
            "over restarts.",
        ),
    ],
)

_FIXED: Mapping[str, Any] = {
    "batch_size": 64,
    "optimizer": "sgd",
    "schedule": "constant",
    "warmup": 0.0,
    "weight_decay": 0.0,
    "clip": 10.0,
}


@dataclass(frozen=True)
class _Plan:
    """How much is tried."""

    seeds: Sequence[int]
    """Restarts, each with data of its own."""
    rates: Sequence[float]
    etas: Sequence[float]
    """What is reported is the best of all rates and etas, by validation rows."""
    epochs: int
    """From starts that are hard to leave."""
    easy: int
    """Epochs from He's weights."""


# At quick scale one rate and one noise, of which it is known that they leave the plateau.
_PLANS: Mapping[Scale, _Plan] = {
    "quick": _Plan(range(2), [0.05], [0.3], 100, 30),
    "reference": _Plan(range(3), [0.01, 0.05, 0.1], [0.01, 0.3, 1.0], 156, 60),
}
# Without noise the hidden weights' gradients from zero are zero, so some epochs tell all.
_STUCK = 10
_WEAKEST = 0.01


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims with 20 layers of 50 units on digits; reference: more rates, noises and restarts.

    Raises:
        SpecError: The scale is full.
    """
    if scale not in _PLANS:
        raise SpecError("gradient_noise: has no recipe for scale full; use quick or reference")
    plan = _PLANS[scale]
    seeds = plan.seeds
    found = {
        (init, noisy): [_restart(plan, init, seed, noisy=noisy) for seed in seeds]
        for init in ("zero", "simple", "he")
        for noisy in (False, True)
    }
    details = {
        f"{init}, {'noise' if noisy else 'none'}: {what}": value
        for (init, noisy), values in found.items()
        for what, value in {"best": max(values), "mean": sum(values) / len(values)}.items()
    }
    return [
        stays("zero_start_needs_it", found["zero", False], most=0.15, seeds=seeds, details=details),
        reaches("zero_start", found["zero", True], least=0.7, seeds=seeds),
        lead("simple_start", found["simple", True], found["simple", False], least=0.5, seeds=seeds),
        lead("harmless", found["he", True], found["he", False], least=-0.03, seeds=seeds),
    ]


def _restart(plan: _Plan, init: Init, seed: int, *, noisy: bool) -> float:
    """Test accuracy of the setting that is best on validation rows."""
    parts = digits(seed)
    best = (-1.0, 0.0)
    etas = ([_WEAKEST] if init == "he" else plan.etas) if noisy else [0.0]
    epochs = plan.easy if init == "he" else _STUCK if init == "zero" and not noisy else plan.epochs
    for lr, eta in product(plan.rates, etas):
        net = Mlp(widths=[50] * 20, inputs=64, num_classes=CLASSES, init=init, seed=seed)
        noise = [{"name": "gradient_noise", "eta": eta}] if noisy else []
        how = {"lr": lr, "epochs": epochs, "seed": seed, "objective": ["cross_entropy", *noise]}
        train_on(net, parts.train, {**_FIXED, **how})
        chosen, reported = (
            accuracy(logits_of(net, rows_of(net, part)).numpy(), part["label"])
            for part in (parts.validation, parts.test)
        )
        best = max(best, (chosen, reported))
    return best[1]
