"""Merges of task vectors against the naive way, all states held at once as flat vectors."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.combiners._merge import Mix, generator_for
from ray_app.methods.combiners.ties import _largest
from tests.combining import MIXED, Plain, assert_mixture, candidates, made_by, vector, vectors

SEEDS = pytest.mark.parametrize("seed", range(3))
K = pytest.mark.parametrize("k", [1, 2, 5])


@SEEDS
@K
def test_task_arithmetic_adds_what_training_added(seed: int, k: int) -> None:
    evaluate = Plain(seed)
    made, states = candidates(evaluate, k)
    combined = made_by("task_arithmetic", {"scale": [0.7]}, made, evaluate)
    expected = vector(evaluate.start) + 0.7 * vectors(states, evaluate.start).mean(0)
    assert_mixture(combined.members[0], expected)


@SEEDS
def test_the_best_of_the_scales_is_taken(seed: int) -> None:
    evaluate = Plain(seed)
    made, states = candidates(evaluate, 4)
    scales = [0.0, 0.5, 1.0, 2.0]
    combined = made_by("task_arithmetic", {"scale": scales}, made, evaluate)
    step = vectors(states, evaluate.start).mean(0)
    values = [step_.value for step_ in combined.history if not step_.kept]
    assert combined.value == max(values)
    assert_mixture(combined.members[0], vector(evaluate.start) + scales[values.index(max(values))] * step)
    # Every scale was judged with statistics of its own.
    assert combined.value == evaluate([evaluate.recalibrate(combined.members[0])])


@SEEDS
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_wise_lies_between_the_start_and_the_best(seed: int, share: float) -> None:
    evaluate = Plain(seed)
    made, states = candidates(evaluate, 3)
    combined = made_by("wise", {"mix": [share]}, made, evaluate)
    assert combined.ingredients == ["0"]
    assert_mixture(combined.members[0], (1 - share) * vector(evaluate.start) + share * vector(states[0]))


def ties_by_hand(added: Tensor, density: float) -> Tensor:
    """The paper's three steps, in float32 as the method has them (a threshold is a number of that type)."""
    added = added.float()
    keep = max(1, round(density * added.shape[1]))
    least = added.abs().sort(1, descending=True).values[:, keep - 1]
    trimmed = torch.where(added.abs() >= least[:, None], added, 0.0)
    sign = trimmed.sum(0).sign()
    agrees = (trimmed.sign() == sign) & (trimmed != 0)
    return ((trimmed * agrees).sum(0) / agrees.sum(0).clamp(min=1)).double()


@SEEDS
@K
@pytest.mark.parametrize("density", [0.05, 0.2, 0.6, 1.0])
def test_ties_trims_elects_and_averages(seed: int, k: int, density: float) -> None:
    evaluate = Plain(seed)
    made, states = candidates(evaluate, k)
    combined = made_by("ties", {"density": density, "scale": [1.3]}, made, evaluate)
    expected = vector(evaluate.start) + 1.3 * ties_by_hand(vectors(states, evaluate.start), density)
    assert_mixture(combined.members[0], expected)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.floats(0, 2.0**127, width=32), min_size=1, max_size=20), min_size=1, max_size=5),
    st.data(),
)
def test_the_kth_largest_is_found_without_sorting(parts: list[list[float]], data: st.DataObject) -> None:
    everything = sorted(itertools.chain(*parts), reverse=True)
    k = data.draw(st.integers(1, len(everything)))
    assert _largest(lambda: map(torch.tensor, parts), k) == everything[k - 1]


@SEEDS
def test_dare_drops_and_scales_up(seed: int) -> None:
    evaluate = Plain(seed)
    made, states = candidates(evaluate, 3)
    combined = made_by("dare", {"drop": 0.4, "scale": [1.0], "seed": 9}, made, evaluate)
    masks = torch.stack(
        [
            torch.cat(
                [
                    torch.rand(states[0][name].shape, generator=generator_for(9, one.name, name)).flatten()
                    for name in MIXED
                ]
            )
            >= 0.4
            for one in made
        ]
    )
    added = vectors(states, evaluate.start)
    assert_mixture(combined.members[0], vector(evaluate.start) + (masks * added / 0.6).mean(0))


def test_dare_keeps_the_share_and_the_expectation() -> None:
    combiner = registry.build("combiners", "dare", {"drop": 0.7})
    thinned = combiner._thinned(torch.ones(100_000), "a", "w")
    # Five standard errors of a mean of 100,000 draws.
    assert (thinned != 0).float().mean().item() == pytest.approx(0.3, abs=5 * (0.21 / 1e5) ** 0.5)
    assert thinned.mean().item() == pytest.approx(1.0, abs=5 * (0.21 / 1e5) ** 0.5 / 0.3)
    other = combiner._thinned(torch.ones(100_000), "b", "w")
    assert ((thinned != 0) & (other != 0)).float().mean().item() == pytest.approx(0.09, abs=0.005)


@SEEDS
@pytest.mark.parametrize("k", [2, 3, 6])
def test_model_stock_goes_as_far_as_the_angles_allow(seed: int, k: int) -> None:
    evaluate = Plain(seed)
    made, states = candidates(evaluate, k)
    combined = made_by("model_stock", {}, made, evaluate)
    parts = []
    for name in MIXED:
        start = evaluate.start[name].double()
        added = [state[name].double() - start for state in states]
        pairs = itertools.combinations([one.flatten() for one in added], 2)
        cosines = [torch.nn.functional.cosine_similarity(a, b, dim=0).item() for a, b in pairs]
        cosine = max(0.0, sum(cosines) / len(cosines))
        share = k * cosine / (1 + (k - 1) * cosine)
        mean = torch.stack([state[name].double() for state in states]).mean(0)
        parts.append((share * mean + (1 - share) * start).flatten())
    assert_mixture(combined.members[0], torch.cat(parts))


@pytest.mark.parametrize("name", ["wise", "task_arithmetic", "ties", "dare", "model_stock"])
def test_without_a_start_it_is_refused(name: str) -> None:
    evaluate = Plain()
    made, _ = candidates(evaluate, 2)
    evaluate.start = None
    with pytest.raises(ValueError, match=f"{name}: needs the weights that candidates started from"):
        registry.build("combiners", name).combine(made, evaluate)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ties", {"density": 0.0}, "density must be > 0 and <= 1, got 0.0; the paper keeps 0.2"),
        ("ties", {"scale": []}, "scale must be finite numbers, at least one"),
        ("dare", {"drop": 1.0}, "drop must be >= 0 and < 1, got 1.0; try 0.5"),
        ("wise", {"mix": [1.5]}, r"mix must be in 0..1, got \[1.5\]"),
        ("task_arithmetic", {"scale": [float("nan")]}, "scale must be finite numbers"),
        ("model_stock", {"top": 0}, "top must be >= 1, got 0; leave it out for all"),
    ],
)
def test_wrong_options_are_one_line(name: str, options: dict, message: str) -> None:
    with pytest.raises(SpecError, match=f"{name}: {message}"):
        registry.build("combiners", name, options)


def test_neither_counters_nor_statistics_are_mixed() -> None:
    evaluate = Plain()
    assert Mix(evaluate.state(0), evaluate).names == list(MIXED)
