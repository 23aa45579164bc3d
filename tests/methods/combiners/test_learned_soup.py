"""Learned soup against autograd through a mixture that holds every candidate."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.testing.combiners import _logits
from tests.combining import MIXED, Plain, candidates, made_by


def learned_by_hand(
    evaluate: Plain, states: list, *, layers: bool, epochs: int, lr: float, batch_size: int
) -> torch.Tensor:
    """Shares after each epoch, [epochs + 1, rows, k], by autograd on everything at once."""
    wanted = torch.zeros(len(MIXED) if layers else 1, len(states), requires_grad=True)
    log_temperature = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.AdamW([wanted, log_temperature], lr=lr, weight_decay=0.0)
    found = [torch.softmax(wanted.detach(), 1)]
    for epoch in range(1, epochs + 1):
        order = torch.randperm(evaluate.size, generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(batch_size):
            shares = torch.softmax(wanted, 1)
            mixed = {
                name: sum(
                    share * state[name].float()
                    for share, state in zip(shares[place if layers else 0], states, strict=True)
                )
                for place, name in enumerate(MIXED)
            }
            # A mixture has the candidates' type.
            mixed["bias"] = mixed["bias"] + (mixed["bias"].half().float() - mixed["bias"]).detach()
            x = evaluate.rows[rows]
            z = _logits(x, {**mixed, "running": (x @ mixed["body"]).mean(0)})
            loss = cross_entropy(z * log_temperature.exp(), evaluate.truth[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append(torch.softmax(wanted.detach(), 1))
    return torch.stack(found)


@pytest.mark.parametrize("layers", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_shares_are_those_of_autograd(seed: int, layers: bool) -> None:  # noqa: FBT001
    evaluate = Plain(seed)
    made, states = candidates(evaluate, 4)
    # Names come in the state's order; `body`, `weight`, `bias` is it.
    assert [name for name in states[0] if name in MIXED] == list(MIXED)
    options = {"layers": layers, "epochs": 4, "lr": 0.1, "batch_size": 16}
    combined = made_by("learned_soup", options, made, evaluate)
    expected = learned_by_hand(evaluate, states, **options)
    values = [step.value for step in combined.history if not step.kept]
    best = expected[values.index(max(values))]
    for place, name in enumerate(MIXED):
        shares = best[place if layers else 0]
        mixture = sum(share * state[name].float() for share, state in zip(shares, states, strict=True))
        tolerance = {"atol": 1e-3, "rtol": 1e-3} if name == "bias" else {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(combined.members[0][name].float(), mixture, **tolerance)


def test_it_learns_to_leave_out_what_harms() -> None:
    evaluate = Plain(1)
    made, states = candidates(evaluate, 2)
    # Rows that the best candidate knows: nothing is gained by weaker weights.
    evaluate.truth = evaluate.logits(states[0]).argmax(1)
    awful = {**states[1], "weight": -5 * states[0]["weight"]}
    broken = [made[0], made[1].__class__("awful", evaluate([awful]), lambda: awful)]
    combined = made_by("learned_soup", {"epochs": 20, "lr": 0.2, "batch_size": 60}, broken, evaluate)
    share = {step.ingredient: step.note for step in combined.history if step.kept}
    assert float(share["awful"].split()[1]) < 0.05
    assert combined.value > combined.history[0].value


@pytest.mark.parametrize("options", [{"epochs": 0}, {"lr": 0.0}, {"batch_size": 0}])
def test_wrong_options_are_one_line(options: dict) -> None:
    with pytest.raises(SpecError, match="learned_soup: epochs and batch_size must be >= 1 and lr > 0"):
        registry.build("combiners", "learned_soup", options)
