"""Soups and ensembles against brute force."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ray_app import registry
from ray_app.methods.combiners import Candidate, Combiner, Evaluate, Weights, ranked

settings.register_profile("here", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("here")

State = dict[str, Tensor]


class Table(Evaluate):
    """A metric that is any function of the mean of the members' weights, and counts its calls."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._direction = torch.from_numpy(self._rng.normal(size=3)).float()
        self.recalibrated = 0

    def logits(self, weights: Weights) -> Tensor:
        return weights["w"][None]

    def score(self, logits: Tensor) -> float:
        # Not monotone, so that ingredients help and harm; coarse, so that there are ties.
        return round(float(torch.sin(3 * (logits[0] @ self._direction))), 1)

    def recalibrate(self, weights: Weights) -> Weights:
        self.recalibrated += 1
        return weights


def candidates(seed: int, n: int, evaluate: Table) -> tuple[list[Candidate], list[State]]:
    rng = np.random.default_rng(seed)
    states = [{"w": torch.from_numpy(rng.normal(size=3)).float(), "steps": torch.tensor(i)} for i in range(n)]
    made = [
        Candidate(f"{i:03d}", evaluate([state]), lambda state=state: state) for i, state in enumerate(states)
    ]
    return made, states


def greedy_by_hand(made: list[Candidate], states: list[State], evaluate: Table, *, strict: bool) -> list[int]:
    order = sorted(range(len(made)), key=lambda i: (-made[i].value, i))
    soup = [order[0]]
    for i in order[1:]:
        before = evaluate([{"w": torch.stack([states[j]["w"].double() for j in soup]).mean(0).float()}])
        after = evaluate([{"w": torch.stack([states[j]["w"].double() for j in [*soup, i]]).mean(0).float()}])
        if after > before or (after == before and not strict):
            soup.append(i)
    return soup


@given(seed=st.integers(0, 10_000), n=st.integers(1, 7), strict=st.booleans())
def test_greedy_soup_equals_the_recipe_done_by_hand(seed: int, n: int, strict: bool) -> None:  # noqa: FBT001
    evaluate = Table(seed)
    made, states = candidates(seed, n, evaluate)
    combined = registry.build("combiners", "greedy_soup", {"strict": strict}).combine(made, evaluate)
    expected = greedy_by_hand(made, states, evaluate, strict=strict)
    assert list(combined.ingredients) == [f"{i:03d}" for i in expected]
    mean = torch.stack([states[i]["w"] for i in expected]).double().mean(0)
    torch.testing.assert_close(combined.members[0]["w"].double(), mean, atol=1e-6, rtol=1e-6)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 7))
def test_greedy_soup_is_never_worse_than_the_best_candidate(seed: int, n: int) -> None:
    evaluate = Table(seed)
    made, _ = candidates(seed, n, evaluate)
    combined = registry.build("combiners", "greedy_soup").combine(made, evaluate)
    assert combined.value >= max(candidate.value for candidate in made)
    kept = [step.value for step in combined.history if step.kept]
    assert all(after >= before for before, after in pairwise(kept))


@given(seed=st.integers(0, 10_000), n=st.integers(1, 7))
def test_uniform_soup_is_the_mean_whatever_the_order(seed: int, n: int) -> None:
    evaluate = Table(seed)
    made, states = candidates(seed, n, evaluate)
    mean = torch.stack([state["w"] for state in states]).double().mean(0)
    for order in (made, made[::-1]):
        combined = registry.build("combiners", "uniform_soup").make(ranked(order, evaluate), evaluate)
        torch.testing.assert_close(combined.members[0]["w"].double(), mean, atol=1e-6, rtol=1e-6)
        assert len(combined.history) == n


def test_half_precision_is_summed_in_double() -> None:
    # 2048 + 1 is 2048 in float16: a sum in the states' own type would lose every one of these.
    states = [{"w": torch.tensor([value], dtype=torch.float16)} for value in (2048.0, *[1.0] * 63)]
    made = [Candidate(str(i), 0.0, lambda state=state: state) for i, state in enumerate(states)]

    class Constant(Evaluate):
        def logits(self, weights: Weights) -> Tensor:
            return weights["w"][None].float()

        def score(self, logits: Tensor) -> float:
            return 0.0

    soup = registry.build("combiners", "uniform_soup").combine(made, Constant()).members[0]["w"]
    assert soup.dtype == torch.float16
    assert soup.item() == pytest.approx((2048 + 63) / 64, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sixty_four_additions_stay_within_a_millionth(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2000, generator=generator)
    states = [{"w": (start + 0.05 * torch.randn(2000, generator=generator)).to(dtype)} for _ in range(64)]

    class Constant(Evaluate):
        def logits(self, weights: Weights) -> Tensor:
            return weights["w"][None].float()

        def score(self, logits: Tensor) -> float:
            return 0.0

    made = [Candidate(str(i), 0.0, lambda state=state: state) for i, state in enumerate(states)]
    expected = torch.stack([state["w"].double() for state in states]).mean(0)
    for name in ("uniform_soup", "greedy_soup"):
        combined = registry.build("combiners", name).combine(made, Constant())
        assert len(combined.ingredients) == 64
        soup = combined.members[0]["w"]
        assert soup.dtype == dtype
        if dtype == torch.bfloat16:
            # Once rounded to its own type: at most one number apart, where the mean lies between two.
            torch.testing.assert_close(soup.double(), expected, atol=0, rtol=2**-8)
        else:
            torch.testing.assert_close(soup.double(), expected, atol=1e-6, rtol=0)


def test_what_is_worse_gives_way_to_the_best_and_says_so() -> None:
    class Sum(Table):
        def score(self, logits: Tensor) -> float:
            return float(logits.sum())

    made = [
        Candidate(name, v, lambda v=v: {"w": torch.full((3,), v)}) for name, v in (("a", 3.0), ("b", 1.0))
    ]
    combined = registry.build("combiners", "uniform_soup").combine(made, Sum(0))
    assert combined.ingredients == ["a"]
    assert combined.value == 9.0  # measured anew, whatever the candidate says
    assert combined.members[0]["w"].tolist() == [3.0] * 3
    assert [(step.ingredient, step.kept) for step in combined.history] == [
        ("a", False),
        ("b", False),
        ("a", True),
    ]
    assert combined.history[-1].note == "uniform_soup would give 6, less than a by itself (9)"
    assert combined.gave_way


def test_greedy_soup_evaluates_each_candidate_once() -> None:
    class Counts(Table):
        calls = 0

        def logits(self, weights: Weights) -> Tensor:
            self.calls += 1
            return super().logits(weights)

    evaluate = Counts(3)
    made, _ = candidates(3, 7, evaluate)
    evaluate.calls = 0
    registry.build("combiners", "greedy_soup").combine(made, evaluate)
    assert evaluate.calls == 7


def test_logit_ensemble_keeps_the_best_as_members() -> None:
    evaluate = Table(1)
    made, states = candidates(1, 5, evaluate)
    combined = registry.build("combiners", "logit_ensemble", {"top": 3}).make(
        ranked(made, evaluate), evaluate
    )
    best = sorted(range(5), key=lambda i: -made[i].value)[:3]
    assert [member["steps"].item() for member in combined.members] == best
    assert combined.value == evaluate([states[i] for i in best])
    assert evaluate.recalibrated == 0  # every member keeps the statistics that fit it


@pytest.mark.parametrize("name", registry.names("combiners"))
def test_no_candidates_are_refused(name: str) -> None:
    combiner: Combiner = registry.build("combiners", name)
    with pytest.raises(ValueError, match=f"{name}: no candidates; did every trial fail"):
        combiner.combine([], Table(0))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"w": torch.zeros(4), "steps": torch.tensor(0)}, r"w has shapes \(3,\) and \(4,\)"),
        ({"v": torch.zeros(3), "steps": torch.tensor(0)}, "differ in .*'v', 'w'"),
        (
            {"w": torch.full((3,), torch.nan), "steps": torch.tensor(0)},
            "w of foreign holds values that are not finite",
        ),
    ],
)
def test_foreign_weights_are_refused(other: State, message: str) -> None:
    evaluate = Table(2)
    made, _ = candidates(2, 2, evaluate)
    made.append(Candidate("foreign", -1.0, lambda: other))
    with pytest.raises(ValueError, match=message):
        registry.build("combiners", "uniform_soup").combine(made, evaluate)
