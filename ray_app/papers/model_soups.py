"""Paper 35: weights fine-tuned from one start are averaged into one model, at least as good as the best."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.combiners import Candidate, Combined, ranked
from ray_app.methods.encoders import Encoder
from ray_app.papers import Claim, Outcome, Paper, Scale, lead, reaches
from ray_app.papers._cifar import SIZE, cifar10
from ray_app.papers._digits import digits
from ray_app.papers._rows import Parts, choose, only, rows_of, small_net, train_on
from ray_app.tune.combine import OnRows
from ray_app.tune.start import linear_probe

if TYPE_CHECKING:
    from ray_app.methods import Batch, StateDict

PAPER = Paper(
    title="Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing "
    "inference time",
    year=2022,
    url="https://arxiv.org/abs/2203.05482",
    methods=[
        "combiners/greedy_soup",
        "combiners/uniform_soup",
        "combiners/learned_soup",
        "combiners/wise",
        "combiners/logit_ensemble",
    ],
    claims=[
        Claim(
            "greedy_not_below_best",
            "The greedy soup is as good as the best candidate on validation rows: test accuracy at most "
            "0.005 below it (reference: at least 0.002 above it).",
        ),
        Claim(
            "greedy_over_mean",
            "The greedy soup leads the candidates' mean test accuracy by at least 0.02.",
        ),
        Claim(
            "one_start_is_needed",
            "A soup of networks from different random weights falls at least 0.10 below their mean accuracy.",
        ),
        Claim(
            "uniform_over_mean",
            "The uniform soup of candidates from one start leads their mean accuracy by at least 0.01.",
        ),
        Claim(
            "greedy_under_shift",
            "On noisy and blurred test images the greedy soup is at most 0.002 below the best candidate on "
            "validation rows (reference: at least 0.005 above it).",
        ),
        Claim("uniform_under_shift", "The same of the uniform soup."),
        Claim(
            "learned_not_below_best",
            "The learned soup, one share a candidate, is at most 0.005 below the best candidate on "
            "validation rows (reference: at least 0.002 above it).",
        ),
        Claim(
            "learned_beside_greedy",
            "The learned soup is at most 0.005 below the greedy soup (the paper found it a little above).",
        ),
        Claim(
            "wise_under_shift",
            "The best candidate drawn back towards the start, as far as validation rows like it, is at most "
            "0.005 below it on noisy and blurred test images.",
        ),
        Claim(
            "gap_foreseen",
            "Over pairs of candidates, the soup's loss less the ensemble's as predicted from logits "
            "correlates with what is measured, by at least 0.5.",
        ),
    ],
)

SOUPS = ("greedy_soup", "uniform_soup", "learned_soup", "wise")
PAIRED = 5
"""So many of the best candidates are put in pairs."""
SHIFTS: Mapping[str, Mapping[str, Any]] = {"gaussian_noise": {"std": 0.2}, "gaussian_blur": {"sigma": 1.0}}


@dataclass(frozen=True)
class _Setting:
    """A start, and what is fine-tuned from it."""

    start: Callable[[int], Encoder]
    """A seed's network before any training; another seed, other random weights."""
    pretrained: Encoder
    parts: Parts
    """Of the new task."""
    runs: Sequence[Mapping[str, Any]]
    """Settings, one a candidate."""
    scratch: Mapping[str, Any]
    """Settings from random weights."""


@dataclass(frozen=True)
class _Margins:
    greedy: float
    shift: float


MARGINS: Mapping[Scale, _Margins] = {"quick": _Margins(-0.005, -0.002), "reference": _Margins(0.002, 0.005)}


def reproduce(scale: Scale) -> list[Outcome]:
    """Test the claims on turned digits (quick) or CIFAR-10 (reference).

    Raises:
        SpecError: The scale is full.
    """
    if scale not in MARGINS:
        raise SpecError(f"model_soups: has no recipe for scale {scale}; use quick or reference")
    seeds = range(3)
    make = _digits if scale == "quick" else _cifar
    found = [_measure(make(seed), seed) for seed in seeds]

    def each(name: str) -> list[float]:
        return [one[name] for one in found]

    details = {name: float(np.mean(each(name))) for name in found[0]}
    margins = MARGINS[scale]
    greedy, uniform, best, mean = map(each, ("greedy", "uniform", "best", "mean"))
    return [
        lead("greedy_not_below_best", greedy, best, least=margins.greedy, seeds=seeds, details=details),
        lead("greedy_over_mean", greedy, mean, least=0.02, seeds=seeds),
        lead("one_start_is_needed", each("scratch: mean"), each("scratch: soup"), least=0.10, seeds=seeds),
        lead("uniform_over_mean", uniform, mean, least=0.01, seeds=seeds),
        *(
            lead(
                f"{name}_under_shift",
                each(f"shifted: {name}"),
                each("shifted: best"),
                least=margins.shift,
                seeds=seeds,
            )
            for name in ("greedy", "uniform")
        ),
        lead("learned_not_below_best", each("learned"), best, least=margins.greedy, seeds=seeds),
        lead("learned_beside_greedy", each("learned"), greedy, least=-0.005, seeds=seeds),
        lead("wise_under_shift", each("shifted: wise"), each("shifted: best"), least=-0.005, seeds=seeds),
        reaches("gap_foreseen", each("correlation of gaps"), least=0.5, seeds=seeds),
    ]


def _digits(seed: int) -> _Setting:
    # Upright digits to pre-train on, others, turned, for the new task.
    parts = digits(seed, train=820, validation=300, test=677)
    turn = registry.build("transforms", "rotate", {"degrees": 25.0})

    def start(of: int) -> Encoder:
        return small_net(num_classes=10, channels=1, image_size=8, seed=of)

    net = train_on(start(seed), choose(parts.train, slice(700)), {"epochs": 15, "lr": 3e-3, "seed": seed})
    turned = Parts(*map(turn, (choose(parts.train, slice(700, None)), parts.validation, parts.test)))
    fixed = {"batch_size": 8, "schedule": "constant", "warmup": 0.0}
    runs = [{**fixed, **drawn} for drawn in _drawn(seed, 8, lr=(10**-3.2, 10**-2.3), epochs=(4, 9))]
    return _Setting(start, net, turned, runs, {**fixed, "epochs": 10, "lr": 10**-2.75})


def _cifar(seed: int) -> _Setting:
    # Half of the classes to pre-train on, all of them for the new task.
    parts = cifar10(seed, train=12_000)
    known = sorted(np.random.default_rng(seed).permutation(10)[:5].tolist())

    def start(of: int) -> Encoder:
        return small_net(num_classes=10, channels=3, image_size=SIZE, seed=of)

    how = {"epochs": 6, "lr": 3e-3, "augment": {"shift": 0.1}}
    net = train_on(start(seed), only(choose(parts.train, slice(10_000)), known), {**how, "seed": seed})
    few = Parts(choose(parts.train, slice(10_000, None)), parts.validation, parts.test)
    # The old classes' outputs mean nothing here: all candidates start from one fitted classifier.
    net.load_state_dict(linear_probe(net, rows_of(net, few.train)))
    runs = _drawn(seed, 16, lr=(10**-3.5, 10**-2.5), epochs=(2, 4))
    return _Setting(start, net, few, runs, {**how, "epochs": 10})


def _drawn(seed: int, n: int, *, lr: tuple[float, float], epochs: tuple[int, int]) -> list[dict[str, Any]]:
    """Settings of n candidates, drawn at random."""
    rng = np.random.default_rng(seed)
    return [
        {
            "lr": float(np.exp(rng.uniform(*np.log(lr)))),
            "epochs": int(rng.integers(epochs[0], epochs[1] + 1)),
            "augment": {"noise": float(rng.uniform(0, 0.3))},
            "objective": {"name": "cross_entropy", "label_smoothing": float(rng.choice([0.0, 0.1]))},
            "seed": run,
        }
        for run in range(n)
    ]


def _measure(setting: _Setting, seed: int) -> dict[str, float]:
    parts, encoder = setting.parts, setting.start(0)
    start = _weights(setting.pretrained)
    validation, test = (_judge(encoder, parts.train, rows, start) for rows in (parts.validation, parts.test))
    shifted = [
        _judge(encoder, parts.train, registry.build("transforms", name, dict(options))(parts.test), start)
        for name, options in SHIFTS.items()
    ]
    states = [_trained(setting, start, run) for run in setting.runs]
    candidates = _candidates(states, validation)
    best = states[int(np.argmax([candidate.value for candidate in candidates]))]
    made = {name: _combined(name, candidates, validation) for name in SOUPS}
    served = {
        "best": [best],
        **{name.removesuffix("_soup"): one.members for name, one in made.items()},
        "ensemble": states,
    }
    # Never the start's random weights: those of other seeds.
    scratch = [
        _trained(
            setting, _weights(setting.start(1000 + 2 * seed + member)), {**setting.scratch, "seed": member}
        )
        for member in range(2)
    ]
    ordered = ranked(candidates, validation)
    gaps = [validation.gap(one.load(), other.load()) for one, other in combinations(ordered[:PAIRED], 2)]
    unrelated = _combined("uniform_soup", _candidates(scratch, validation), validation)
    return {
        "start": test([start]),
        "mean": float(np.mean([test([state]) for state in states])),
        **{name: test(members) for name, members in served.items()},
        "correlation of gaps": float(
            np.corrcoef([gap["predicted"] for gap in gaps], [gap["measured"] for gap in gaps])[0, 1]
        ),
        "gap predicted": float(np.mean([gap["predicted"] for gap in gaps])),
        "gap measured": float(np.mean([gap["measured"] for gap in gaps])),
        "ingredients of the greedy soup": float(len(made["greedy_soup"].ingredients)),
        "scratch: mean": float(np.mean([test([state]) for state in scratch])),
        "scratch: soup": test(unrelated.members),
        **{
            f"shifted: {name}": float(np.mean([judge(members) for judge in shifted]))
            for name, members in served.items()
            if len(members) == 1
        },
    }


def _judge(encoder: Encoder, training: "Batch", batch: "Batch", start: "StateDict") -> OnRows:
    return OnRows(encoder, rows_of(encoder, batch), rows_of(encoder, training), "accuracy", start=start)


def _candidates(states: "Sequence[StateDict]", validation: OnRows) -> list[Candidate]:
    def loads(state: "StateDict") -> "Callable[[], StateDict]":
        return lambda: state

    return [Candidate(str(i), validation([state]), loads(state)) for i, state in enumerate(states)]


def _combined(name: str, candidates: Sequence[Candidate], evaluate: OnRows) -> Combined:
    # What it makes, whatever it is worth: a soup that gives way to the best candidate would prove nothing.
    made: Combined = registry.build("combiners", name).make(ranked(candidates, evaluate), evaluate)
    return made


def _trained(setting: _Setting, weights: "StateDict", run: Mapping[str, Any]) -> "StateDict":
    """The weights after fine-tuning from these."""
    encoder = setting.start(0)
    encoder.load_state_dict(weights)
    return _weights(train_on(encoder, setting.parts.train, run))


def _weights(encoder: Encoder) -> "StateDict":
    return {name: tensor.detach().clone() for name, tensor in encoder.state_dict().items()}
