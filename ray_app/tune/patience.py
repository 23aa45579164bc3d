"""Early stopping: which epoch was best, and when to wait for no better one."""

import math
from typing import Any

from torch import Tensor, nn


class Best:
    """The best epoch so far, and whether it is worth while to wait for a better one.

    Args:
        patience: Epochs without a better score after which it is not.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._waited = 0
        self._score = -math.inf
        self._judged: dict[str, float] = {}
        self._state: dict[str, Tensor] | None = None

    def update(self, score: float, judged: dict[str, float], model: nn.Module) -> bool:
        """Take note of an epoch; return whether patience is at an end. A score of nan is no better one."""
        if score > self._score or self._state is None:
            self._score, self._judged, self._waited = score, judged, 0
            # On the CPU: a device holds the model once.
            self._state = {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}
        else:
            self._waited += 1
        return self._waited >= self._patience

    def state(self) -> dict[str, Any]:
        """Return what `load` goes on from."""
        return {"waited": self._waited, "score": self._score, "judged": self._judged, "state": self._state}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._waited, self._score = state["waited"], state["score"]
        self._judged, self._state = state["judged"], state["state"]

    def restore(self, model: nn.Module) -> dict[str, float]:
        """Give a model the best epoch's weights; return what was judged of them."""
        if self._state is not None:
            model.load_state_dict(self._state)
        return self._judged
