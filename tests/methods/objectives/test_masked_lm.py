"""Masked language modelling: what is chosen, what is shown, what is counted."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.encoders import Encoder, Features
from ray_app.methods.objectives import TrainBatch

OPTIONS = {"vocabulary": 50, "mask": 4, "special": [0, 1, 2]}


class Echo(Encoder):
    """Hidden states are an embedding of what was shown, which it remembers."""

    modality, dim = "text", 8

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.utils.skip_init(nn.Embedding, 50, 8)
        nn.init.normal_(self.embed.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, inputs: dict[str, Tensor], want: object = ()) -> Features:
        self.shown = inputs["input_ids"]
        tokens = self.embed(self.shown)
        return Features(tokens.mean(1), tokens=tokens)

    def portable(self) -> tuple[dict, dict]:
        return {}, {}


def batch(n: int = 200, t: int = 30) -> TrainBatch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 50, (n, t), generator=generator)
    ids[:, 0], ids[:, -5] = 1, 2
    ids[:, -4:] = 0
    return TrainBatch({"input_ids": ids, "attention_mask": (ids != 0).long()})


def test_shares_are_berts_and_special_tokens_are_left_alone() -> None:
    objective = registry.build("objectives", "masked_lm", {**OPTIONS, "rate": 0.2}, dim=8)
    rows = batch()
    ids = rows.inputs["input_ids"]
    shown, chosen = objective._hidden(ids, rows.inputs["attention_mask"], torch.Generator().manual_seed(2))
    usual = ids >= 5
    assert not chosen[~usual].any()
    assert torch.equal(shown[~chosen], ids[~chosen])
    assert chosen[usual].float().mean().item() == pytest.approx(0.2, abs=0.025)
    masked = (shown == 4)[chosen].float().mean().item()
    same = (shown == ids)[chosen].float().mean().item()
    assert masked == pytest.approx(0.8, abs=0.05)
    assert same == pytest.approx(0.1, abs=0.04)
    # The rest is any other token.
    assert len(shown[chosen & (shown != 4) & (shown != ids)].unique()) > 20


def test_the_loss_is_that_of_the_chosen_tokens() -> None:
    objective = registry.build("objectives", "masked_lm", OPTIONS, dim=8)
    rows, model = batch(), Echo()
    found = objective.loss(model, rows, 0, torch.Generator().manual_seed(3))
    ids, mask = rows.inputs["input_ids"], rows.inputs["attention_mask"]
    shown, chosen = objective._hidden(ids, mask, torch.Generator().manual_seed(3))
    assert torch.equal(model.shown, shown)
    logits = objective.decode(model.embed(shown[chosen]))
    torch.testing.assert_close(found["loss"], cross_entropy(logits, ids[chosen]))
    torch.testing.assert_close(found["accuracy"], (logits.argmax(1) == ids[chosen]).float().mean())
    assert torch.equal(rows.inputs["input_ids"], batch().inputs["input_ids"])


def test_nothing_chosen_is_no_loss() -> None:
    objective = registry.build("objectives", "masked_lm", {**OPTIONS, "special": range(50)}, dim=8)
    found = objective.loss(Echo(), batch(2), 0, torch.Generator())
    found["loss"].backward()
    assert found["loss"].item() == 0
    assert found["accuracy"].item() == 0


def test_says_what_is_wrong() -> None:
    with pytest.raises(SpecError, match="rate must be > 0 and < 1, got 1"):
        registry.build("objectives", "masked_lm", {**OPTIONS, "rate": 1}, dim=8)
    with pytest.raises(SpecError, match=r"mask must be a token in 0..49, got 50"):
        registry.build("objectives", "masked_lm", {**OPTIONS, "mask": 50}, dim=8)
    objective = registry.build("objectives", "masked_lm", OPTIONS, dim=8)
    with pytest.raises(TypeError, match="give a text encoder with `long: cut`"):
        objective.loss(Echo(), TrainBatch(torch.zeros(2, 3)), 0, torch.Generator())


def test_the_generator_is_the_only_source_of_chance_and_the_decoder_travels() -> None:
    """What the suite of objectives checks on pixels."""
    from safetensors.torch import load, save

    def loss(objective: nn.Module, seed: int) -> Tensor:
        return objective.loss(Echo(), batch(20), 0, torch.Generator().manual_seed(seed))["loss"]

    first = registry.build("objectives", "masked_lm", {**OPTIONS, "seed": 0}, dim=8)
    before = torch.random.get_rng_state()
    assert loss(first, 3).item() == loss(first, 3).item() != loss(first, 4).item()
    assert torch.equal(before, torch.random.get_rng_state())
    other = registry.build("objectives", "masked_lm", {**OPTIONS, "seed": 1}, dim=8)
    assert loss(other, 3).item() != loss(first, 3).item()
    other.load_state_dict(load(save(first.state_dict())))
    assert loss(other, 3).item() == loss(first, 3).item()
    loss(first, 3).backward()
    assert all(parameter.grad is not None for parameter in first.parameters())
