"""Ensembles by their rules: counted votes, mean probabilities, and one trial's cycles."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.combiners import joint
from tests.combining import Plain, candidates, made_by


@pytest.mark.parametrize("seed", range(4))
def test_votes_are_counted_and_ties_go_to_the_mean_probability(seed: int) -> None:
    logits = [torch.randn(200, 3, generator=torch.Generator().manual_seed(10 * seed + i)) for i in range(4)]
    answer = joint(logits, "votes").exp()
    votes = np.stack([one.argmax(1).numpy() for one in logits])
    proba = torch.stack([one.softmax(1) for one in logits]).mean(0).numpy()
    for row in range(200):
        count = np.bincount(votes[:, row], minlength=3)
        leaders = np.flatnonzero(count == count.max())
        assert answer[row].argmax().item() == max(leaders, key=lambda c: proba[row, c])
        np.testing.assert_allclose(answer[row], (count + proba[row]) / 5, rtol=1e-5)
    torch.testing.assert_close(answer.sum(1), torch.ones(200))


def test_probabilities_are_averaged_where_the_rule_says_so() -> None:
    logits = [30 * torch.randn(50, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    mean = torch.stack([one.double().softmax(1) for one in logits]).mean(0)
    torch.testing.assert_close(joint(logits, "probabilities").double().softmax(1), mean, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(joint(logits), torch.stack(logits).mean(0))


@pytest.mark.parametrize("name", ["voting", "logit_ensemble"])
def test_the_best_are_members_and_the_value_is_theirs(name: str) -> None:
    evaluate = Plain(2)
    made, states = candidates(evaluate, 5)
    combined = made_by(name, {"top": 3}, made[::-1], evaluate)
    assert combined.ingredients == ["0", "1", "2"]
    for member, state in zip(combined.members, states, strict=False):
        assert all(torch.equal(member[key], state[key]) for key in state)
    assert combined.rule == ("votes" if name == "voting" else "logits")
    assert combined.value == pytest.approx(evaluate(states[:3], combined.rule), abs=1e-12)


def test_a_snapshot_ensemble_is_the_best_trial_s_last_cycles() -> None:
    evaluate = Plain(3)
    made, states = candidates(evaluate, 6)
    cycles = [replace(one, name=f"0@{i + 1}", value=float("nan")) for i, one in enumerate(made[1:4])]
    trials = [replace(made[0], snapshots=cycles), made[4], made[5]]
    combined = made_by("snapshot", {"last": 3}, trials, evaluate)
    assert combined.ingredients == ["0", "0@3", "0@2"]
    proba = torch.stack([evaluate.logits(states[i]).softmax(1) for i in (0, 3, 2)]).mean(0)
    assert combined.value == pytest.approx(evaluate.score(proba.log()), abs=1e-6)
    alone = made_by("snapshot", {}, made, evaluate)
    assert alone.ingredients == ["0"]


def test_wrong_options_are_one_line() -> None:
    with pytest.raises(SpecError, match="snapshot: last must be >= 1, got 0; leave it out for all"):
        registry.build("combiners", "snapshot", {"last": 0})
    with pytest.raises(ValueError, match="rule must be one of logits, probabilities, votes, got 'mean'"):
        joint([torch.zeros(1, 2)], "mean")
