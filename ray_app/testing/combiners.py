"""The contract of combiners."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ray_app.methods.combiners import Candidate, Combined, Combiner, Evaluate, Gradient, Lazy, Weights
from ray_app.testing._expect import expect, expect_raises, untouched

_CLASSES = ("ant", "bee", "cat")
_TRAINED = ("body", "weight", "bias")


class LinearRows(Evaluate):
    """A small linear model on made-up rows: all that an engine's evaluator offers, in memory.

        z = (x body - running) weight^T + bias,   running: the mean of x body, found by `recalibrate`

    `copy` shares its memory with `body`, `bias` is float16, `steps` counts.

    Args:
        seed: Of rows, labels and the start.
        n: How many rows.
    """

    labels = _CLASSES
    statistics = frozenset({"running"})

    def __init__(self, seed: int = 0, n: int = 60) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tied = {"copy": "body"}
        self.size = n
        self.rows = torch.randn(n, 4, generator=generator) + 0.5
        self.truth = torch.randint(len(_CLASSES), (n,), generator=generator)
        self.start = self.state(1000 + seed)

    def state(self, seed: int, near: Weights | None = None) -> dict[str, Tensor]:
        """Return weights of their own seed; near others, where there are some."""
        generator = torch.Generator().manual_seed(seed)
        body, weight = (torch.randn(*shape, generator=generator) for shape in ((4, 5), (3, 5)))
        bias = torch.randn(3, generator=generator)
        if near is not None:
            body, weight = near["body"] + 0.3 * body, near["weight"] + 0.3 * weight
            bias = near["bias"].float() + 0.3 * bias
        steps = torch.tensor(seed)
        state = {"body": body, "copy": body, "weight": weight, "bias": bias.half(), "steps": steps}
        return {**state, "running": (self.rows @ body).mean(0)}

    def logits(self, weights: Weights) -> Tensor:
        """Return float32 [n, 3]."""
        return _logits(self.rows, {name: weights[name] for name in (*_TRAINED, "running")})

    def score(self, logits: Tensor) -> float:
        """Return the mean log probability of the true classes."""
        return -cross_entropy(logits, self.truth).item()

    def recalibrate(self, weights: Weights) -> Weights:
        """Return the weights with the mean that fits them."""
        running = (self.rows @ weights["body"]).mean(0)
        return Lazy(weights, lambda name: running if name == "running" else weights[name])

    def gradient(self, weights: Weights, rows: Tensor, log_temperature: float) -> Gradient:
        """Return the gradient of the cross-entropy, with the rows' own mean."""
        held = {name: weights[name].float().requires_grad_() for name in _TRAINED}
        scale = torch.tensor(log_temperature, requires_grad=True)
        x = self.rows[rows]
        with torch.enable_grad():
            z = _logits(x, {**held, "running": (x @ held["body"]).mean(0)})
            loss = cross_entropy(z * scale.exp(), self.truth[rows])
            *slopes, slope = torch.autograd.grad(loss, [*held.values(), scale])
        return Gradient(loss.item(), dict(zip(held, slopes, strict=True)), slope.item())

    def fisher(self, candidate: Candidate, rows: int, seed: int) -> Weights:
        """Return the mean of squared gradients over the first rows and all classes."""
        weights = candidate.load()
        held = {name: weights[name].float().requires_grad_() for name in _TRAINED}
        running = weights["running"]
        sums = {name: torch.zeros_like(value) for name, value in held.items()}
        with torch.enable_grad():
            for x in self.rows[:rows].split(1):
                log_proba = torch.log_softmax(_logits(x, {**held, "running": running}), 1)[0]
                for one in log_proba:
                    slopes = torch.autograd.grad(one, list(held.values()), retain_graph=True)
                    for name, slope in zip(held, slopes, strict=True):
                        sums[name] += one.detach().exp() * slope.square() / min(rows, len(self.rows))
        return {name: value.detach() for name, value in sums.items()}


def check_combiner(make: Callable[[], Combiner]) -> None:
    """Check everything that combiners promise.

    Args:
        make: Returns a fresh combiner.

    Raises:
        AssertionError: With a sentence about what does not hold.
    """
    evaluate = LinearRows()
    states = [evaluate.state(seed, near=evaluate.start) for seed in range(5)]
    candidates = [_candidate(f"trial-{i}", state, evaluate) for i, state in enumerate(states)]
    with untouched(states):
        combined = make().combine(candidates, evaluate)
        members = [{name: tensor.clone() for name, tensor in one.items()} for one in combined.members]
    _check_form(combined, members, states, candidates, evaluate)
    _check_same(members, make().combine(candidates, evaluate), "the same candidates must give the same bytes")
    shuffled = [candidates[i] for i in (3, 1, 4, 0, 2)]
    _check_same(
        members, make().combine(shuffled, evaluate), "the order in which candidates come must not matter"
    )
    unmeasured = [replace(candidate, value=float("nan")) for candidate in candidates]
    _check_same(
        members,
        make().combine(unmeasured, evaluate),
        "candidates without a value must be measured, not misplaced",
    )
    turned = [candidates[0], *(_turned(one) for one in candidates[1:])]
    _check_same(
        members,
        make().combine(turned, evaluate),
        "classes in another order must be brought into the common one",
    )
    _check_one(make, evaluate)
    _check_memory(make, evaluate)
    _check_refusals(make, evaluate, candidates)


def _check_form(
    combined: Combined,
    members: Sequence[Weights],
    states: Sequence[Weights],
    candidates: Sequence[Candidate],
    evaluate: LinearRows,
) -> None:
    expect(members, "there must be at least one member")
    for member in members:
        same = {k: (v.shape, v.dtype) for k, v in member.items()} == {
            k: (v.shape, v.dtype) for k, v in states[0].items()
        }
        expect(same, "members must have the candidates' names, shapes and types")
        expect(torch.equal(member["copy"], member["body"]), "tied weights must stay equal")
        expect(int(member["steps"]) in range(len(states)), "integer buffers must be a candidate's")
        fitting = (evaluate.rows @ member["body"]).mean(0)
        expect(
            torch.allclose(member["running"], fitting, atol=1e-5),
            "normalisation statistics must fit the member: recalibrate what was mixed",
        )
    known = {one.name for candidate in candidates for one in (candidate, *candidate.snapshots)}
    expect(
        combined.ingredients and set(combined.ingredients) <= known, "ingredients must be candidates' names"
    )
    expect(
        abs(combined.value - evaluate(members, combined.rule)) < 1e-6,
        "the value must be that of the members it returns",
    )
    best = max(evaluate([state]) for state in states)
    expect(combined.value >= best - 1e-9, "it must not be worse than the best candidate on validation rows")
    kept = [step.ingredient for step in combined.history if step.kept]
    expect(set(kept) == set(combined.ingredients), "the history must keep exactly the ingredients")


def _check_same(members: Sequence[Weights], again: Combined, sentence: str) -> None:
    expect(len(members) == len(again.members), sentence)
    expect(
        all(torch.equal(a[name], b[name]) for a, b in zip(members, again.members, strict=True) for name in a),
        sentence,
    )


def _check_one(make: Callable[[], Combiner], evaluate: LinearRows) -> None:
    assert evaluate.start is not None  # noqa: S101 (its constructor made it)
    (member,) = make().combine([_candidate("start", evaluate.start, evaluate)], evaluate).members
    expect(
        all(
            torch.allclose(member[name].double(), tensor.double(), atol=1e-6)
            for name, tensor in evaluate.start.items()
        ),
        "of one candidate that has not moved from the start it must make that candidate",
    )


def _check_memory(make: Callable[[], Combiner], evaluate: LinearRows) -> None:
    alive, most = 0, 0

    def counted(weights: Weights) -> Weights:
        def read(name: str) -> Tensor:
            nonlocal alive, most
            tensor = weights[name].clone()
            alive += tensor.numel()
            most = max(most, alive)
            weakref.finalize(tensor, gone, tensor.numel())
            return tensor

        return Lazy(weights, read)

    def gone(numbers: int) -> None:
        nonlocal alive
        alive -= numbers

    states = [evaluate.state(seed, near=evaluate.start) for seed in range(12)]
    made = [
        replace(_candidate(f"{i}", state, evaluate), load=partial(counted, state))
        for i, state in enumerate(states)
    ]
    make().combine(made, evaluate)
    model = sum(tensor.numel() for tensor in states[0].values())
    expect(
        most <= 2 * model,
        f"candidates must be read tensor by tensor: {most / model:.1f} of them were held at once",
    )


def _check_refusals(
    make: Callable[[], Combiner], evaluate: LinearRows, candidates: Sequence[Candidate]
) -> None:
    expect_raises(ValueError, lambda: make().combine([], evaluate), "no candidates must raise ValueError")
    one = evaluate.state(77, near=evaluate.start)
    broken: Iterator[tuple[Weights, str]] = iter(
        [
            ({**one, "weight": torch.zeros(3, 6)}, "another shape"),
            ({name: tensor for name, tensor in one.items() if name != "bias"}, "another architecture"),
            ({**one, "body": torch.full((4, 5), torch.nan)}, "values that are not finite"),
        ]
    )
    for state, what in broken:
        # The best by its value, so that no combiner leaves it aside.
        bad = Candidate("bad", 1.0, partial(dict, state), _CLASSES, ("weight", "bias"))
        expect_raises(
            ValueError,
            partial(make().combine, [*candidates, bad], evaluate),
            f"{what} must raise ValueError",
        )
    stranger = replace(candidates[0], labels=("ant", "bee", "dog"))
    expect_raises(
        ValueError,
        lambda: make().combine([stranger, *candidates[1:]], evaluate),
        "other classes must raise ValueError",
    )


def _candidate(name: str, state: Weights, evaluate: LinearRows) -> Candidate:
    return Candidate(name, evaluate([state]), lambda: dict(state), _CLASSES, ("weight", "bias"))


def _turned(candidate: Candidate) -> Candidate:
    """The same candidate with its classes in another order."""
    order = [2, 0, 1]

    def load() -> Weights:
        weights = dict(candidate.load())
        return {**weights, **{name: weights[name][order] for name in ("weight", "bias")}}

    return replace(candidate, load=load, labels=[_CLASSES[i] for i in order])


def _logits(rows: Tensor, weights: Weights) -> Tensor:
    hidden = rows @ weights["body"] - weights["running"]
    return hidden @ weights["weight"].T + weights["bias"].float()
