"""The engine's evaluator and the files around it, on a small network with batch normalisation."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ray_app.errors import RunError
from ray_app.methods.combiners import Candidate, Lazy
from ray_app.methods.encoders import Encoder, Features
from ray_app.spec import Method
from ray_app.tune.combine import Kept, OnRows, Result, choose, combine_all, fill
from ray_app.tune.store import file_key, open_state, read_state, write_state
from ray_app.tune.training import Rows, logits_of


class Tied(Encoder):
    """A layer used twice, batch normalisation, a classifier."""

    modality, dim, num_classes = "tensor", 6, 3

    def __init__(self, seed: int, *, norm: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.utils.skip_init(nn.Linear, 6, 6)
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()
        self.again = self.first
        self.head = nn.utils.skip_init(nn.Linear, 6, 3)
        for parameter in (*self.first.parameters(), *self.head.parameters()):
            nn.init.normal_(parameter, 0, 0.5, generator=generator)

    def forward(self, inputs: Tensor, want: Sequence[str] = ()) -> Features:
        pooled = self.again(self.norm(self.first(inputs)).tanh())
        return Features(pooled, logits=self.head(pooled))

    def portable(self) -> tuple[dict, dict]:
        return {}, {}


def rows(seed: int, n: int = 40) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    return Rows(torch.randn(n, 6, generator=generator), torch.randint(3, (n,), generator=generator))


def state_of(seed: int) -> dict[str, Tensor]:
    net = Tied(seed)
    net.train()
    net(rows(seed).inputs)
    return copy.deepcopy(net.eval().state_dict())


@pytest.fixture
def evaluate() -> OnRows:
    return OnRows(Tied(0), rows(1), rows(2, 50), "nll")


def files(folder: Path, k: int, evaluate: OnRows) -> list[Candidate]:
    made = []
    for seed in range(k):
        path = folder / f"{seed}.safetensors"
        write_state(path, state_of(seed))
        made.append(
            Candidate(
                f"{seed}",
                evaluate([read_state(path)]),
                lambda path=path: open_state(path),
                key=lambda path=path: file_key(path),
            )
        )
    return sorted(made, key=lambda one: -one.value)


def test_it_knows_what_is_tied_and_what_is_a_statistic(evaluate: OnRows) -> None:
    assert evaluate.tied == {"again.weight": "first.weight", "again.bias": "first.bias"}
    assert evaluate.statistics == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


def test_weights_go_in_tensor_by_tensor_and_what_does_not_fit_is_refused() -> None:
    net, state = Tied(0), state_of(5)
    fill(net, {name: tensor for name, tensor in state.items() if not name.startswith("again")})
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    with pytest.raises(ValueError, match=r"head\.bias is missing"):
        fill(net, {name: tensor for name, tensor in state.items() if name != "head.bias"})
    with pytest.raises(ValueError, match="tail is no tensor of the network"):
        fill(net, {**state, "tail": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"head.bias has shape \(4,\), the network \(3,\)"):
        fill(net, {**state, "head.bias": torch.zeros(4)})


def test_files_are_read_lazily_and_written_with_ties(tmp_path: Path) -> None:
    state = state_of(3)
    assert state["again.weight"].data_ptr() != 0
    tied = Tied(3).state_dict()
    write_state(tmp_path / "tied.safetensors", tied)
    assert all(
        torch.equal(tensor, tied[name]) for name, tensor in read_state(tmp_path / "tied.safetensors").items()
    )
    write_state(tmp_path / "lazy.safetensors", Lazy(state, lambda name: state[name] + 0))
    opened = open_state(tmp_path / "lazy.safetensors")
    assert opened.keys() == state.keys()
    assert all(torch.equal(opened[name], state[name]) for name in state)
    (tmp_path / "lazy.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RunError, match=r"lazy.safetensors: not readable as safetensors .* run again"):
        open_state(tmp_path / "lazy.safetensors")


def test_statistics_are_found_anew_for_a_mixture(evaluate: OnRows) -> None:
    a, b = state_of(1), state_of(2)
    mixed = {name: (a[name] + b[name]) / 2 if a[name].is_floating_point() else a[name] for name in a}
    fitting = evaluate.recalibrate(mixed)
    hidden = rows(2, 50).inputs @ mixed["first.weight"].T + mixed["first.bias"]
    torch.testing.assert_close(fitting["norm.running_mean"], hidden.mean(0))
    torch.testing.assert_close(fitting["norm.running_var"], hidden.var(0))
    assert torch.equal(fitting["head.weight"], mixed["head.weight"])
    without = OnRows(Tied(0, norm=False), rows(1), rows(2), "nll")
    assert without.recalibrate(mixed) is mixed


def test_the_gradient_is_that_of_finite_differences(evaluate: OnRows) -> None:
    state = state_of(4)
    chosen = torch.tensor([3, 5, 8, 13, 21, 34])
    found = evaluate.gradient(state, chosen, 0.3)

    def loss(change: dict[str, Tensor], log_temperature: float) -> float:
        net = Tied(0)
        fill(net, {**state, **change})
        net.double().train()  # batch statistics
        z = net(rows(1).inputs[chosen].double(), {"logits"}).logits
        return cross_entropy(z * np.exp(log_temperature), rows(1).labels[chosen]).item()

    assert found.loss == pytest.approx(loss({}, 0.3), abs=1e-5)
    assert found.log_temperature == pytest.approx((loss({}, 0.31) - loss({}, 0.29)) / 0.02, abs=1e-3)
    assert set(found.weights) == {name for name, _ in Tied(0).named_parameters()}
    for name in ("first.weight", "head.weight", "norm.weight"):
        for place in (0, -1):
            up, down = state[name].clone(), state[name].clone()
            up.view(-1)[place] += 1e-2
            down.view(-1)[place] -= 1e-2
            tied = (
                {"again.weight": up} if name == "first.weight" else {},
                ({"again.weight": down} if name == "first.weight" else {}),
            )
            slope = (loss({name: up, **tied[0]}, 0.3) - loss({name: down, **tied[1]}, 0.3)) / 2e-2
            assert found.weights[name].view(-1)[place].item() == pytest.approx(slope, abs=2e-3)


def test_fisher_information_is_the_mean_of_squared_gradients(tmp_path: Path, evaluate: OnRows) -> None:
    (candidate,) = files(tmp_path, 1, evaluate)
    found = evaluate.fisher(candidate, 20, 7)
    net, training = Tied(0), rows(2, 50)
    fill(net, candidate.load())
    net.eval()
    generator = torch.Generator().manual_seed(7)
    expected = {name: torch.zeros_like(value) for name, value in net.named_parameters()}
    for row in torch.randperm(50, generator=generator)[:20].tolist():
        log_proba = torch.log_softmax(net(training.inputs[row : row + 1]).logits, 1)[0]
        drawn = torch.multinomial(log_proba.detach().exp()[None], 1, generator=generator).item()
        for name, slope in zip(
            expected, torch.autograd.grad(log_proba[int(drawn)], list(net.parameters())), strict=True
        ):
            expected[name] += slope.square() / 20
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_kept_logits_spare_the_forward_pass_and_follow_the_content(tmp_path: Path) -> None:
    evaluate = OnRows(Tied(0), rows(1), rows(2), "nll")
    made = files(tmp_path, 3, evaluate)
    asked: list[str] = []

    def at_once(several: Sequence[Candidate]) -> list[Tensor]:
        asked.extend(one.name for one in several)
        net = Tied(0)
        found = []
        for one in several:
            fill(net, one.load())
            found.append(logits_of(net, rows(1)))
        return found

    again = OnRows(Tied(0), rows(1), rows(2), "nll", kept=Kept(tmp_path / "kept"), at_once=at_once)
    first = list(again.of(made))
    assert sorted(asked) == ["0", "1", "2"]
    for one, logits in zip(made, first, strict=True):
        assert torch.equal(logits, evaluate.logits(one.load()))
    asked.clear()
    again.logits = None  # type: ignore[method-assign, assignment]  # nothing may run the model
    assert all(torch.equal(a, b) for a, b in zip(again.of(made), first, strict=True))
    assert asked == []
    # Other weights under the same name, and other rows, are other content.
    write_state(tmp_path / "0.safetensors", state_of(9))
    write_state(tmp_path / "1.safetensors", state_of(10))
    list(again.of(made))
    assert sorted(asked) == ["0", "1"]
    other = OnRows(Tied(0), rows(11), rows(2), "nll", kept=Kept(tmp_path / "kept"))
    assert not torch.equal(next(other.of(made)), first[0])


def test_a_trial_s_own_logits_are_used(tmp_path: Path) -> None:
    evaluate = OnRows(Tied(0), rows(1), rows(2), "nll", kept=Kept(tmp_path / "kept"))
    (candidate,) = files(tmp_path, 1, evaluate)
    told = torch.full((40, 3), 0.25)
    Kept(tmp_path / "kept").keep_logits(file_key(tmp_path / "0.safetensors"), rows(1), told)
    assert torch.equal(next(evaluate.of([candidate])), told)


@pytest.mark.parametrize(
    "name", ["uniform_soup", "greedy_soup", "learned_soup", "wise", "ties", "dare", "fisher", "voting"]
)
def test_combinations_hold_their_value_in_files(tmp_path: Path, name: str) -> None:
    evaluate = OnRows(Tied(0), rows(1), rows(2, 50), "nll", start=state_of(99))
    made = files(tmp_path, 3, evaluate)
    results = combine_all(
        {name: Method(name=name)}, made, evaluate, evaluate, rows(1).labels.numpy(), tmp_path / "combined"
    )
    assert [result.name for result in results] == ["single", name]
    for result in results:
        members = [open_state(file) for file in result.files]
        assert evaluate(members, result.rule) == pytest.approx(result.value, abs=1e-6)
        assert result.test_nll == pytest.approx(-result.value, abs=1e-6)
        assert result.value >= results[0].value
    again = combine_all(
        {name: Method(name=name)}, made, None, None, rows(1).labels.numpy(), tmp_path / "combined"
    )
    assert str(again[1].history) == str(results[1].history)  # nan is not equal to itself
    assert again[1].rule == results[1].rule


def test_a_combiner_that_refuses_says_which_in_one_line(tmp_path: Path) -> None:
    evaluate = OnRows(Tied(0), rows(1), rows(2), "nll")
    with pytest.raises(RunError, match=r"combine\.far: wise: needs the weights that candidates started from"):
        combine_all(
            {"far": Method(name="wise")},
            files(tmp_path, 2, evaluate),
            evaluate,
            evaluate,
            rows(1).labels.numpy(),
            tmp_path / "combined",
        )


def test_the_gap_between_soup_and_ensemble_is_foreseen() -> None:
    net = Tied(0, norm=False)
    evaluate = OnRows(net, rows(1), rows(2), "nll")
    start = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    generator = torch.Generator().manual_seed(3)

    def near(scale: float) -> dict[str, Tensor]:
        moved = {name: t + scale * torch.randn(t.shape, generator=generator) for name, t in start.items()}
        return {**moved, "again.weight": moved["first.weight"], "again.bias": moved["first.bias"]}

    for _ in range(3):
        gap = evaluate.gap(near(0.1), near(0.1))
        assert gap["predicted"] == pytest.approx(gap["measured"], abs=0.25 * abs(gap["measured"]) + 1e-5)
        assert gap["predicted"] == pytest.approx(gap["curvature"] + gap["variance"])
    same = near(0.1)
    still = evaluate.gap(same, same)
    assert still["measured"] == pytest.approx(0, abs=1e-6)
    assert still["predicted"] == pytest.approx(0, abs=1e-4)


def test_statistics_that_all_candidates_have_in_common_stay(evaluate: OnRows, tmp_path: Path) -> None:
    """As after adapters, which hold those of the start: to find them anew would make other networks."""
    start = state_of(0)
    held = {name: tensor for name, tensor in start.items() if name.startswith("norm.running")}
    alike = [{**state_of(seed), **held} for seed in (1, 2)]
    for states, stays in ((alike, True), ([alike[0], state_of(2)], False)):
        candidates = [
            Candidate(str(i), float("nan"), lambda state=state: state)  # type: ignore[misc]  # its default's type
            for i, state in enumerate(states)
        ]
        evaluate.look_at(candidates)
        mixed = evaluate.recalibrate(states[0])
        assert torch.equal(mixed["norm.running_mean"], states[0]["norm.running_mean"]) == stays
    # Of one candidate alone nothing can be said, but that the start has the same.
    evaluate.look_at(candidates[:1])
    assert evaluate.recalibrate(states[0]) is not states[0]
    evaluate.start = start
    evaluate.look_at(candidates[:1])
    assert evaluate.recalibrate(states[0]) is states[0]


def test_what_gave_way_to_the_best_candidate_is_exported_as_that() -> None:
    def result(name: str, value: float, ingredients: list[str], files: int = 1) -> Result:
        return Result(name, [Path(str(i)) for i in range(files)], ingredients, value, 0.0, 0.0, [])

    single, fallen = result("single", 0.8, ["a"]), result("soup", 0.8, ["a"])
    assert choose([single, fallen], "best").name == "single"
    assert choose([single, fallen, result("mean", 0.8, ["a", "b"])], "best").name == "mean"
    assert choose([single, result("votes", 0.8, ["a", "b"], 2)], "best").name == "single"
    assert choose([single, result("votes", 0.9, ["a", "b"], 2)], "best").name == "votes"
