"""Fisher merging against the weighted mean written out."""

import pytest
import torch

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.combiners import Candidate, Weights
from tests.combining import MIXED, Plain, assert_mixture, candidates, made_by


@pytest.mark.parametrize("seed", range(3))
def test_each_number_counts_as_much_as_answers_depend_on_it(seed: int) -> None:
    evaluate = Plain(seed)
    made, states = candidates(evaluate, 4)
    combined = made_by("fisher", {"rows": 7, "floor": 1e-3}, made, evaluate)
    parts = []
    for name in MIXED:
        information = torch.stack([evaluate.fisher(one, 7, 0)[name].double() + 1e-3 for one in made])
        values = torch.stack([state[name].double() for state in states])
        parts.append(((information * values).sum(0) / information.sum(0)).flatten())
    assert_mixture(combined.members[0], torch.cat(parts))


def test_what_does_not_train_is_averaged() -> None:
    class Frozen(Plain):
        def fisher(self, candidate: Candidate, rows: int, seed: int) -> Weights:
            found = super().fisher(candidate, rows, seed)
            return {name: found[name] for name in ("weight", "bias")}

    evaluate = Frozen()
    made, states = candidates(evaluate, 3)
    body = made_by("fisher", {"rows": 3}, made, evaluate).members[0]["body"]
    torch.testing.assert_close(body.double(), torch.stack([s["body"] for s in states]).double().mean(0))


@pytest.mark.parametrize(
    ("options", "message"), [({"rows": 0}, "rows must be >= 1, got 0"), ({"floor": 0.0}, "floor must be > 0")]
)
def test_wrong_options_are_one_line(options: dict, message: str) -> None:
    with pytest.raises(SpecError, match=f"fisher: {message}"):
        registry.build("combiners", "fisher", options)
