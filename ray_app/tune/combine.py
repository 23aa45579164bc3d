"""Soups and ensembles from a sweep's candidates, chosen on validation rows and reported on test rows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ray_app.errors import RunError
from ray_app.methods.combiners import Candidate, Combined, Step
from ray_app.methods.encoders import Encoder
from ray_app.metrics.classification import accuracy, nll
from ray_app.spec import Method
from ray_app.tune.store import digest, read_json, write_json, write_state
from ray_app.tune.training import Rows, logits_of, recalibrate

if TYPE_CHECKING:
    from ray_app.methods import StateDict

SINGLE = "single"
"""What the best trial by itself is called."""


class OnRows:
    """What weights are worth on rows: the combiners' `Evaluate`.

    Args:
        encoder: The architecture; its own weights are overwritten.
        rows: Validation rows.
        training: Rows for normalisation statistics.
        metric: `accuracy` or `nll` (its negative is returned).
    """

    def __init__(self, encoder: Encoder, rows: Rows, training: Rows, metric: str) -> None:
        self._encoder, self._rows, self._training, self._metric = encoder, rows, training, metric

    def __call__(self, members: Sequence["StateDict"]) -> float:
        """Return the metric of the members' averaged logits."""
        proba = torch.softmax(self.logits(members), 1).numpy()
        labels = self._rows.labels.numpy()
        return accuracy(proba, labels) if self._metric == "accuracy" else -nll(proba, labels)

    def logits(self, members: Sequence["StateDict"]) -> Tensor:
        """Return the members' averaged logits [n, c]."""
        total: Tensor | None = None
        for state in members:
            self._encoder.load_state_dict(state)
            logits = logits_of(self._encoder, self._rows)
            total = logits if total is None else total + logits
        if total is None:
            raise ValueError("evaluate: no members; give at least one")
        return total / len(members)

    def recalibrate(self, state: "StateDict") -> "StateDict":
        """Return the weights with normalisation statistics of their own."""
        self._encoder.load_state_dict(state)
        recalibrate(self._encoder, self._training)
        return {name: tensor.detach().cpu().clone() for name, tensor in self._encoder.state_dict().items()}


@dataclass(frozen=True)
class Result:
    """A combination as it lies in the run folder."""

    name: str
    files: list[Path]
    """One safetensors file a member."""
    ingredients: list[str]
    value: float
    """The sweep's metric on validation rows, higher is better."""
    test_accuracy: float
    test_nll: float
    history: list[Step]


def combine_all(
    combiners: dict[str, Method],
    candidates: Sequence[Candidate],
    evaluate: OnRows,
    test: OnRows,
    test_labels: np.ndarray,
    folder: Path,
) -> list[Result]:
    """Run every combiner, and the best single candidate beside them; each is cached by its ingredients.

    Raises:
        RunError: No candidate finished.
    """
    if not candidates:
        raise RunError("no trial finished with weights, so there is nothing to combine; see the leaderboard")
    known = [(candidate.name, candidate.value) for candidate in candidates]
    results = []
    for name, method in {SINGLE: None, **combiners}.items():
        key = digest(method.model_dump() if method else None, known)
        place = folder / name
        found = _read(name, place, key)
        if found is None:
            combiner = method.build("combiners") if method else None
            combined = (
                combiner.combine(candidates, evaluate) if combiner else _single(candidates[0], evaluate)
            )
            found = _write(name, place, key, combined, test, test_labels)
        results.append(found)
    return results


def choose(results: Sequence[Result], wanted: str) -> Result:
    """Return the result to export: the one named, or the best on validation rows, then the cheapest."""
    if wanted != "best":
        return next(result for result in results if result.name == wanted)
    # Among equals a soup goes before the single candidate: it averages away some of the luck of selection.
    return min(results, key=lambda result: (-result.value, len(result.files), result.name == SINGLE))


def _single(best: Candidate, evaluate: OnRows) -> Combined:
    state = best.load()
    value = evaluate([state])
    return Combined([state], [best.name], value, [Step(best.name, value, kept=True, gain=float("nan"))])


def _write(name: str, place: Path, key: str, combined: Combined, test: OnRows, labels: np.ndarray) -> Result:
    files = [place / f"member-{index}.safetensors" for index in range(len(combined.members))]
    for file, state in zip(files, combined.members, strict=True):
        write_state(file, state)
    proba = torch.softmax(test.logits(combined.members), 1).numpy()
    result = Result(
        name,
        files,
        list(combined.ingredients),
        combined.value,
        accuracy(proba, labels),
        nll(proba, labels),
        list(combined.history),
    )
    record: dict[str, Any] = {"key": key, **asdict(result), "files": [file.name for file in files]}
    write_json(place / "combined.json", record)
    return result


def _read(name: str, place: Path, key: str) -> Result | None:
    record_file = place / "combined.json"
    if not record_file.exists() or (record := read_json(record_file)).pop("key") != key:
        return None
    files = [place / file for file in record.pop("files")]
    history = [Step(**step) for step in record.pop("history")]
    return Result(**record, files=files, history=history) if all(file.exists() for file in files) else None
