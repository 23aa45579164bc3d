"""Paper 38: a layer that was trained a few units at a time does without its last units."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ray_app.errors import SpecError
from ray_app.methods.encoders import Features
from ray_app.methods.heads.sequential_boosting import SequentialBoosting
from ray_app.metrics.classification import accuracy
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, stays
from ray_app.papers._cifar import SIZE, cifar10
from ray_app.papers._rows import features_of, small_net, train_on

PAPER = Paper(
    title="Sequential Training of Neural Networks with Gradient Boosting",
    year=2023,
    url="https://arxiv.org/abs/1909.12098",
    methods=["heads/sequential_boosting"],
    claims=[
        Claim(
            "one_net",
            "The net put together of all steps gives the boosted sum's logits: at most 1e-5 between them.",
        ),
        Claim("half_is_enough", "Its first half of units costs at most 0.02 of test accuracy."),
        Claim("quarter_is_enough", "Its first quarter costs at most 0.04."),
        Claim(
            "not_so_by_adam",
            "Of as many units trained at once by Adam, the first quarter alone costs at least 0.15.",
        ),
        Claim("competitive", "With all units it is at most 0.03 below those trained by Adam."),
        Claim(
            "competitive_on_few_rows",
            "So it is on two small tables, wine and breast cancer, on average.",
        ),
    ],
)

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""x float32 [n, d] and y of training rows, then of test rows; standardised by the training rows."""


@dataclass(frozen=True)
class _Setting:
    main: Callable[[int], Split]
    """A seed's rows, for most of the claims."""
    steps: int
    units: int


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on digits (quick) or a network's features of CIFAR-10 (reference), and on small tables.

    Raises:
        SpecError: The scale is full.
    """
    settings: Mapping[Scale, _Setting] = {
        "quick": _Setting(lambda seed: _table("digits", seed), 20, 3),
        "reference": _Setting(_cifar, 50, 8),
    }
    if scale not in settings:
        raise SpecError("gbnn: has no recipe for scale full; use quick or reference")
    setting = settings[scale]
    seeds = range(5) if scale == "quick" else range(3)
    found = [_measure(setting, setting.main(seed), seed) for seed in seeds]
    small = [
        [
            _measure(_Setting(setting.main, 20, 3), _table(name, seed), seed)
            for name in ("wine", "breast_cancer")
        ]
        for seed in seeds
    ]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    ours, theirs = ([float(np.mean([one[k] for one in pair])) for pair in small] for k in ("boosted", "adam"))
    full = each("boosted")
    return [
        stays("one_net", each("gap"), most=1e-5, seeds=seeds, details=details),
        lead("half_is_enough", each("boosted: half"), full, least=-0.02, seeds=seeds),
        lead("quarter_is_enough", each("boosted: quarter"), full, least=-0.04, seeds=seeds),
        lead("not_so_by_adam", each("adam"), each("adam: quarter"), least=0.15, seeds=seeds),
        lead("competitive", full, each("adam"), least=-0.03, seeds=seeds),
        lead("competitive_on_few_rows", ours, theirs, least=-0.03, seeds=seeds),
    ]


def _measure(setting: _Setting, split: Split, seed: int) -> dict[str, float]:
    x, y, test, truth = split
    head = SequentialBoosting(steps=setting.steps, units=setting.units, seed=seed)
    head.fit(Features(torch.from_numpy(x)), torch.from_numpy(y))
    rows = Features(torch.from_numpy(test))
    total = setting.steps
    logits = {name: head.logits(rows, total // part).numpy() for name, part in _PARTS.items()}
    assembled = head.to_module()(rows.pooled.double()).detach().numpy()
    cut = _by_adam(split, setting.steps * setting.units, seed)
    return {
        "gap": float(np.abs(assembled - logits[""]).max()),
        **{f"boosted{name}": accuracy(values, truth) for name, values in logits.items()},
        **{f"adam{name}": accuracy(cut(part), truth) for name, part in _PARTS.items()},
    }


_PARTS: Mapping[str, int] = {"": 1, ": half": 2, ": quarter": 4}


def _by_adam(split: Split, units: int, seed: int) -> Callable[[int], np.ndarray]:
    """Train a net of so many units at once; return its logits on test rows with one unit in so many left."""
    from scipy.special import expit
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    x, y, test, _ = split
    net = MLPClassifier(hidden_layer_sizes=(units,), activation="logistic", max_iter=300, random_state=seed)
    with warnings.catch_warnings():
        # It is as good as it gets long before its loss stands still.
        warnings.simplefilter("ignore", ConvergenceWarning)
        net.fit(x, y)
    (hidden, output), (hidden_bias, output_bias) = net.coefs_, net.intercepts_

    def logits(part: int) -> np.ndarray:
        left = units // part
        active = expit(test @ hidden[:, :left] + hidden_bias[:left])
        found: np.ndarray = active @ output[:left] + output_bias
        # Two classes have one output: the second's lead.
        return found if found.shape[1] > 1 else np.concatenate([np.zeros_like(found), found], 1)

    return logits


def _table(name: str, seed: int) -> Split:
    """Seven tenths of a bundled table to train on, the rest to report on."""
    import sklearn.datasets

    x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    fitted, tested = order[: int(0.7 * len(y))], order[int(0.7 * len(y)) :]
    return _scaled(x[fitted], y[fitted], x[tested], y[tested])


def _cifar(seed: int) -> Split:
    """Features of a network that was trained on other rows."""
    parts = cifar10(seed, train=9000)
    net = small_net(num_classes=10, channels=3, image_size=SIZE, seed=seed)
    first, second = (
        {name: column[rows] for name, column in parts.train.items()}
        for rows in (slice(6000), slice(6000, None))
    )
    train_on(net, first, {"epochs": 10, "lr": 3e-3, "augment": {"shift": 0.1}, "seed": seed})
    pooled = [features_of(net, part).pooled.numpy() for part in (second, parts.test)]
    return _scaled(pooled[0], second["label"], pooled[1], parts.test["label"])


def _scaled(x: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray) -> Split:
    mean, std = x.mean(0), x.std(0)
    std[std == 0] = 1
    scaled = [((part - mean) / std).astype(np.float32) for part in (x, test)]
    return scaled[0], y.astype(np.int64), scaled[1], truth.astype(np.int64)
