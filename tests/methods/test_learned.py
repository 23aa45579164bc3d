"""Learned modules: buffers that grow, and what is derived from them."""

import copy

import pytest
import torch

from ray_app.methods._learned import Learned


class Counter(Learned):
    growing = ("part_",)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(0))
        self.made = 0

    def doubled(self) -> torch.Tensor:
        def make() -> torch.Tensor:
            self.made += 1
            return self.total * 2

        return self.derive("doubled", make)


def test_derived_values_follow_the_state() -> None:
    module = Counter()
    module.total = torch.ones(2)
    assert module.doubled() is module.doubled()
    assert module.made == 1
    module.total = torch.ones(3)
    assert module.doubled().tolist() == [2, 2, 2]
    module.load_state_dict({"total": torch.full((1,), 5.0)})
    assert module.doubled().tolist() == [10]
    module.double()
    assert module.doubled().dtype == torch.float64
    assert module.made == 4
    copied = copy.deepcopy(module)
    copied.doubled()
    assert copied.made == 5


def test_derived_values_can_be_differentiated_through_after_inference_mode() -> None:
    module = Counter()
    module.total = torch.ones(2)
    with torch.inference_mode():
        module.doubled()
    x = torch.ones(2, requires_grad=True)
    (x * module.doubled()).sum().backward()
    assert x.grad is not None


def test_growing_buffers_come_and_go_with_the_state() -> None:
    module = Counter()
    module.load_state_dict({"total": torch.zeros(1), "part_0": torch.ones(2), "part_1": torch.ones(3)})
    module.load_state_dict({"total": torch.zeros(1), "part_0": torch.ones(4)})
    assert set(module.state_dict()) == {"total", "part_0"}
    with pytest.raises(RuntimeError, match="foreign"):
        module.load_state_dict({"total": torch.zeros(1), "foreign": torch.zeros(1)})
    source = torch.ones(1)
    module.load_state_dict({"total": source})
    source.zero_()
    assert module.total.tolist() == [1]
