"""What all suites use: expectations with a sentence, and watching that nothing else changes."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ray_app.methods.encoders import Features

M = TypeVar("M", bound=nn.Module)


def expect(holds: object, sentence: str) -> None:
    """Raise AssertionError with the sentence unless it holds."""
    if not bool(holds):
        raise AssertionError(sentence)


def expect_close(
    got: Tensor, expected: Tensor, sentence: str, rtol: float = 1e-5, atol: float = 1e-5
) -> None:
    """Raise AssertionError with the sentence unless two tensors agree, shapes and types included."""
    torch.testing.assert_close(
        got, expected, rtol=rtol, atol=atol, equal_nan=True, msg=lambda detail: f"{sentence}: {detail}"
    )


def expect_raises(kind: type[Exception], act: Callable[[], object], sentence: str) -> None:
    """Raise AssertionError with the sentence unless this kind of exception comes, with a message."""
    try:
        act()
    except kind as error:
        expect(str(error).strip(), f"{sentence}, with a message that says how to mend it")
    except Exception as error:
        raise AssertionError(f"{sentence}; {type(error).__name__} came: {error}") from error
    else:
        raise AssertionError(f"{sentence}; nothing came")


@contextmanager
def untouched(*inputs: Any) -> Iterator[None]:
    """Watch that a block changes neither its inputs, nor the global generators, nor the grad mode."""
    before = [_copied(value) for value in inputs]
    torch_state = torch.random.get_rng_state()
    numpy_state = np.random.get_state()  # noqa: NPY002 (watched, not used)
    grad = torch.is_grad_enabled()
    yield
    for old, new in zip(before, inputs, strict=True):
        expect(_equal(old, new), "inputs must not be written to")
    expect(
        torch.equal(torch_state, torch.random.get_rng_state()), "torch's global generator must not be used"
    )
    same = all(np.array_equal(a, b) for a, b in zip(numpy_state, np.random.get_state(), strict=True))  # noqa: NPY002
    expect(same, "NumPy's global generator must not be used")
    expect(grad == torch.is_grad_enabled(), "the grad mode must be left as it was")


def through_safetensors(module: nn.Module, fresh: M) -> M:
    """Return a fresh module with the state of another, by way of safetensors bytes."""
    from safetensors.torch import load, save

    fresh.load_state_dict(load(save({k: v.contiguous() for k, v in module.state_dict().items()})))
    return fresh


def permuted(n: int, seed: int = 0) -> Tensor:
    """Return int64 [n]: the rows in another order."""
    return torch.from_numpy(np.random.default_rng(seed).permutation(n))


def _copied(value: Any) -> Any:
    return value.map(torch.clone) if isinstance(value, Features) else copy.deepcopy(value)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, Features):
        return _equal(vars(a), vars(b))
    if isinstance(a, np.ndarray):
        return (
            a.dtype == b.dtype and a.shape == b.shape and all(map(_equal, a.flat, b.flat))
            if a.dtype == object
            else (np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)
