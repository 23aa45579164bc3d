"""Soups and ensembles from a sweep's candidates, chosen on validation rows and reported on test rows."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ray_app.errors import RunError
from ray_app.methods.combiners import (
    Candidate,
    Combined,
    Combiner,
    Evaluate,
    Gradient,
    Lazy,
    Rule,
    Step,
    Weights,
)
from ray_app.methods.encoders import Encoder
from ray_app.metrics.classification import accuracy, nll
from ray_app.metrics.soups import soup_against_ensemble
from ray_app.spec import Method
from ray_app.tune.store import digest, open_state, read_json, write_json, write_state
from ray_app.tune.training import Rows, logits_of, recalibrate

SINGLE = "single"
"""What the best trial by itself is called."""


class Kept:
    """Logits and Fisher information, found again by the content of the weights and of the rows.

    A trial that has just evaluated its weights can leave its logits here: no ensemble runs the model again.

    Args:
        folder: Holds a file for each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def logits(self, weights: str, rows: Rows) -> Tensor | None:
        """Return the logits of weights on rows, if they are there.

        Args:
            weights: Their key, see `store.file_key`.
            rows: On which.
        """
        path = self._logits(weights, rows)
        return open_state(path)["logits"] if path.exists() else None

    def keep_logits(self, weights: str, rows: Rows, logits: Tensor) -> None:
        """Write logits."""
        write_state(self._logits(weights, rows), {"logits": logits})

    def fisher(self, weights: str, rows: Rows, how: str) -> Path:
        """Return where Fisher information goes, measured in a way that `how` tells from others."""
        return self.folder / f"fisher-{weights}-{digest(key_of(rows), how)}.safetensors"

    def _logits(self, weights: str, rows: Rows) -> Path:
        return self.folder / f"logits-{weights}-{key_of(rows)}.safetensors"


def key_of(rows: Rows) -> str:
    """Return what identifies rows by their content."""
    inputs = rows.inputs if isinstance(rows.inputs, dict) else {"": rows.inputs}
    hashed = hashlib.blake2b(digest_size=8)
    for name, tensor in {**inputs, "labels": rows.labels}.items():
        plain = tensor.detach().cpu().contiguous()
        hashed.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        hashed.update(plain.view(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def fill(encoder: nn.Module, weights: Weights) -> None:
    """Load weights tensor by tensor, so that nothing but the network holds them.

    Raises:
        ValueError: A tensor is missing, not known, or of another shape.
    """
    own = encoder.state_dict()
    if unknown := weights.keys() - own.keys():
        raise ValueError(f"weights: {sorted(unknown)[0]} is no tensor of the network; is it another one?")
    filled = set[int]()
    for name, target in own.items():
        if name not in weights:
            if target.data_ptr() not in filled:
                raise ValueError(f"weights: {name} is missing; are they another network's?")
            continue  # it shares memory with one that was there
        tensor = weights[name]
        if tensor.shape != target.shape:
            raise ValueError(
                f"weights: {name} has shape {tuple(tensor.shape)}, the network {tuple(target.shape)}"
            )
        target.copy_(tensor)
        filled.add(target.data_ptr())


class OnRows(Evaluate):
    """What weights are worth on rows.

    Args:
        encoder: The architecture; its own weights are overwritten.
        rows: Validation rows.
        training: Rows for normalisation statistics and Fisher information.
        metric: `accuracy` or `nll` (its negative is returned).
        start: What candidates were trained from; None: not known.
        kept: Where logits and Fisher information are kept; None: nothing is.
        at_once: Computes the logits of several candidates in parallel; None: one after the other.
    """

    def __init__(
        self,
        encoder: Encoder,
        rows: Rows,
        training: Rows,
        metric: str,
        *,
        start: Weights | None = None,
        kept: Kept | None = None,
        at_once: Callable[[Sequence[Candidate]], Iterable[Tensor]] | None = None,
    ) -> None:
        self._encoder, self._rows, self._training, self._metric = encoder, rows, training, metric
        self._kept, self._at_once = kept, at_once
        self.start = start
        self.size = len(rows)
        self.statistics = frozenset(
            f"{name}.{buffer}"
            for name, module in encoder.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for buffer, _ in module.named_buffers(recurse=False)
        )
        first: dict[tuple[int, torch.Size], str] = {}
        self.tied = {
            name: other
            for name, tensor in encoder.state_dict().items()
            if tensor.numel() and (other := first.setdefault((tensor.data_ptr(), tensor.shape), name)) != name
        }

    def logits(self, weights: Weights) -> Tensor:
        """Return float32 [n, c] of the rows."""
        fill(self._encoder, weights)
        return logits_of(self._encoder, self._rows)

    def score(self, logits: Tensor) -> float:
        """Return accuracy, or the mean log probability of the true classes."""
        proba = torch.softmax(logits, 1).numpy()
        labels = self._rows.labels.numpy()
        return accuracy(proba, labels) if self._metric == "accuracy" else -nll(proba, labels)

    def of(self, candidates: Sequence[Candidate]) -> Iterator[Tensor]:
        """Yield each candidate's logits: those that were kept, the others computed, and kept."""
        keys = [one.key() if self._kept and one.key else None for one in candidates]
        found = [self._kept.logits(key, self._rows) if self._kept and key else None for key in keys]
        missing = [one for one, logits in zip(candidates, found, strict=True) if logits is None]
        computed = iter(
            self._at_once(missing)
            if self._at_once is not None and len(missing) > 1
            else (self.logits(one.load()) for one in missing)
        )
        for key, logits in zip(keys, found, strict=True):
            if logits is not None:
                yield logits
                continue
            made = next(computed)
            if self._kept is not None and key is not None:
                self._kept.keep_logits(key, self._rows, made)
            yield made

    def recalibrate(self, weights: Weights) -> Weights:
        """Return the weights with normalisation statistics of their own; the same where there are none.

        Statistics that all candidates have in common were held while they trained (adapters do so): weights
        between theirs fit them as well as theirs do, and they stay.
        """
        if not self.statistics or self._held:
            return weights
        fill(self._encoder, weights)
        recalibrate(self._encoder, self._training)
        own = self._encoder.state_dict()
        fitting = {name: own[name].cpu().clone() for name in self.statistics}
        return Lazy(weights, lambda name: fitting[name] if name in fitting else weights[name])

    def look_at(self, candidates: Sequence[Candidate]) -> None:
        """Find out whether candidates and start have their normalisation statistics in common."""
        known = [one.load() for one in candidates] + ([self.start] if self.start is not None else [])
        first, *others = known
        self._held = bool(others) and all(
            torch.equal(first[name], other[name])
            for name in sorted(self.statistics)
            for other in others
            if name in first and name in other
        )

    def gradient(self, weights: Weights, rows: Tensor, log_temperature: float) -> Gradient:
        """Return the gradient of the cross-entropy on these rows, and with their normalisation statistics."""
        fill(self._encoder, weights)
        batch = self._rows[rows].to(self._encoder.device)
        scale = torch.tensor(log_temperature, requires_grad=True, device=self._encoder.device)
        parameters = dict(self._encoder.named_parameters())
        with (
            torch.enable_grad(),
            _differentiable(self._encoder, batch_statistics=len(rows) > 1 and not self._held),
        ):
            logits = self._encoder(batch.inputs, {"logits"}).logits
            loss = nn.functional.cross_entropy(logits * scale.exp(), batch.labels)
            *slopes, slope = torch.autograd.grad(loss, [*parameters.values(), scale], allow_unused=True)
        found = {name: grad.cpu() for name, grad in zip(parameters, slopes, strict=True) if grad is not None}
        return Gradient(loss.item(), found, slope.item())

    def fisher(self, candidate: Candidate, rows: int, seed: int) -> Weights:
        """Return the Fisher information, read from a file: it is as large as the weights."""
        if self._kept is not None and candidate.key is not None:
            path = self._kept.fisher(candidate.key(), self._training, f"{rows} {seed}")
        else:
            self._unkept += 1
            path = Path(self._scratch.name) / f"fisher-{self._unkept}.safetensors"
        if not path.exists():
            fill(self._encoder, candidate.load())
            write_state(path, _information(self._encoder, self._training, rows, seed))
        return open_state(path)

    def gap(
        self, first: Weights, second: Weights, *, mix: float = 0.5, step: float = 0.1
    ) -> dict[str, float]:
        """Return how a soup of two and their ensemble differ in loss, as predicted and as measured.

        Args:
            first: Ends of the line.
            second: Likewise.
            mix: The second's share in the soup.
            step: Of the second derivative along the line.
        """

        def at(share: float) -> np.ndarray:
            if share in (0.0, 1.0):
                return self.logits(second if share else first).numpy()
            mixed = Lazy(first, lambda name: _between(first[name], second[name], share))
            return self.logits(self.recalibrate(mixed)).numpy()

        ends, line = (at(0.0), at(1.0)), (at(mix - step), at(mix), at(mix + step))
        return soup_against_ensemble(ends, line, self._rows.labels.numpy(), mix=mix, step=step)

    _unkept = 0
    _held = False

    @cached_property
    def _scratch(self) -> "tempfile.TemporaryDirectory[str]":
        return tempfile.TemporaryDirectory(prefix="fisher-")


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
    rule: Rule = "logits"
    """How several members answer."""
    gave_way: bool = False
    """Whether it is the best candidate, than which the combination would be worse."""


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
        RunError: No candidate finished, or a combiner refuses them.
    """
    if not candidates:
        raise RunError("no trial finished with weights, so there is nothing to combine; see the leaderboard")
    known = [
        (one.name, one.value, *(each.key() for each in (one, *one.snapshots) if each.key))
        for one in candidates
    ]
    results = []
    for name, method in {SINGLE: None, **combiners}.items():
        key = digest(method.model_dump() if method else None, known)
        place = folder / name
        found = _read(name, place, key)
        if found is None:
            combiner: Combiner = method.build("combiners") if method else _Single()
            evaluate.look_at(candidates)
            try:
                combined = combiner.combine(candidates, evaluate)
            except ValueError as error:
                raise RunError(f"combine.{name}: {error}") from error
            found = _write(name, place, key, combined, test, test_labels)
        results.append(found)
    return results


def choose(results: Sequence[Result], wanted: str) -> Result:
    """Return the result to export: the one named, or the best on validation rows, then the cheapest."""
    if wanted != "best":
        return next(result for result in results if result.name == wanted)

    def place(result: Result) -> tuple[float, int, bool, bool]:
        # Among equals a soup goes before the single candidate: it averages away some of the luck of choice.
        # One that gave way to the best candidate is no soup, and goes by that candidate's name.
        return -result.value, len(result.files), len(result.ingredients) == 1, result.name != SINGLE

    return min(results, key=place)


class _Single(Combiner):
    """The best candidate by itself."""

    @property
    def name(self) -> str:
        return SINGLE

    def make(self, candidates: Sequence[Candidate], evaluate: Evaluate) -> Combined:
        best = candidates[0]
        step = Step(best.name, best.value, kept=True, gain=float("nan"))
        return Combined([best.load()], [best.name], best.value, [step])


def _between(first: Tensor, second: Tensor, share: float) -> Tensor:
    return torch.lerp(first, second, share) if first.is_floating_point() else first


@contextmanager
def _differentiable(encoder: nn.Module, *, batch_statistics: bool) -> Iterator[None]:
    """Let all parameters have gradients; dropout is off, and the module is in eval mode afterwards."""
    wanted = {parameter: parameter.requires_grad for parameter in encoder.parameters()}
    encoder.requires_grad_().eval()
    for module in encoder.modules():
        if batch_statistics and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    try:
        yield
    finally:
        encoder.eval()
        for parameter, before in wanted.items():
            parameter.requires_grad_(before)


def _information(encoder: Encoder, rows: Rows, most: int, seed: int) -> dict[str, Tensor]:
    """The diagonal of the Fisher information of what the network holds, a row at a time."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(rows), generator=generator)[:most]
    sums = {name: torch.zeros_like(value) for name, value in encoder.named_parameters()}
    with torch.enable_grad(), _differentiable(encoder, batch_statistics=False):
        hooks = []
        for name, parameter in encoder.named_parameters():

            def square(parameter: Tensor, name: str = name) -> None:
                # As soon as a gradient is complete: all of them together would be one more model.
                if parameter.grad is not None:
                    sums[name].addcmul_(parameter.grad, parameter.grad, value=1 / len(chosen))
                    parameter.grad = None

            hooks.append(parameter.register_post_accumulate_grad_hook(square))
        for row in chosen.tolist():
            one = rows[slice(row, row + 1)].to(encoder.device)
            log_proba = torch.log_softmax(encoder(one.inputs, {"logits"}).logits, 1)
            drawn = torch.multinomial(log_proba.detach().exp().cpu(), 1, generator=generator).item()
            (-log_proba[0, int(drawn)]).backward()
        for hook in hooks:
            hook.remove()
    return {name: value.detach() for name, value in sums.items()}


def _write(name: str, place: Path, key: str, combined: Combined, test: OnRows, labels: np.ndarray) -> Result:
    files = [place / f"member-{index}.safetensors" for index in range(len(combined.members))]
    for file, state in zip(files, combined.members, strict=True):
        write_state(file, state)
    proba = torch.softmax(test.answer(combined.members, combined.rule), 1).numpy()
    result = Result(
        name,
        files,
        list(combined.ingredients),
        combined.value,
        accuracy(proba, labels),
        nll(proba, labels),
        list(combined.history),
        combined.rule,
        combined.gave_way,
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
