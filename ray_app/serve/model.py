"""What runs in a model's replica: preprocess each request alone, batch, one forward pass, everything from it.

Plain asyncio and torch; `app` makes Ray Serve deployments of these classes.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ray_app.bundle import Bundle, load
from ray_app.errors import BundleError
from ray_app.methods.encoders import Encoder, Features, Inputs, Want
from ray_app.methods.encoders._joined import join
from ray_app.predictor import Judge, Prediction, Predictor, load_member, preprocessor
from ray_app.serve.answers import Answer, Refusal, Wish, concat, take
from ray_app.serve.batching import Batcher
from ray_app.spec.serve import Batching, Spread

if TYPE_CHECKING:
    from ray_app.serve.answers import Instance

PROBES: "Mapping[str, Instance]" = {"image": np.zeros((8, 8), dtype=np.uint8), "text": "ready"}
"""Modality → an input that any model of it can take, for health checks."""

Ask = Callable[[Inputs, Collection[Want]], Awaitable[Features]]
"""One member, somewhere: its features of n inputs."""


@dataclass(frozen=True)
class _Job:
    """A part of a request that fits in a forward pass."""

    instances: "Sequence[Instance]"
    inputs: Inputs
    wishes: frozenset[Wish]

    @property
    def rows(self) -> int:
        return len(self.instances)


class Answering(ABC):
    """Prepares requests one by one and answers them in batches.

    Args:
        encoder: Preprocesses.
        batching: How requests share a pass.
    """

    def __init__(self, encoder: Encoder, batching: Batching) -> None:
        self._encoder = encoder
        self._max_rows = batching.max_rows
        # One thread: passes do not compete for the device, and the event loop stays free.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forward")
        self._batcher: Batcher[_Job, Answer | Refusal] = Batcher(
            self._run, max_rows=batching.max_rows, wait_s=batching.wait_ms / 1000, rows=lambda job: job.rows
        )

    async def answer(self, instances: "Sequence[Instance]", wishes: frozenset[Wish]) -> Answer | Refusal:
        """Answer for n instances; a wrong one refuses this request and no other."""
        try:
            jobs = await asyncio.to_thread(self._prepare, instances, wishes)
        except ValueError as error:
            return Refusal(422, _one_line(error))
        parts = await asyncio.gather(*(self._batcher(job) for job in jobs))
        answers = [part for part in parts if isinstance(part, Answer)]
        return (
            concat(answers)
            if len(answers) == len(parts)
            else next(p for p in parts if isinstance(p, Refusal))
        )

    async def probe(self) -> float:
        """Return the milliseconds of a real forward pass, which goes before the requests that wait.

        Raises:
            RuntimeError: It gave no answer.
        """
        begun = time.perf_counter()
        instances = [PROBES[self._encoder.modality]]
        (job,) = await asyncio.to_thread(
            self._prepare, instances, frozenset[Wish](["proba", "heads", "scores"])
        )
        answer = await self._forward(job.inputs, job.wishes)
        if isinstance(answer, Refusal):
            raise RuntimeError(f"no forward pass is possible: {answer.reason}")
        return (time.perf_counter() - begun) * 1000

    async def check_health(self) -> None:
        """Raise where no forward pass is possible; Ray Serve then replaces the replica."""
        await self.probe()

    @abstractmethod
    async def _forward(self, inputs: Inputs, wishes: frozenset[Wish]) -> Answer | Refusal:
        """Answer for the inputs of a batch."""

    async def _run(self, jobs: Sequence[_Job]) -> Sequence[Answer | Refusal]:
        inputs = jobs[0].inputs if len(jobs) == 1 else await asyncio.to_thread(self._merge, jobs)
        whole = await self._forward(inputs, frozenset[Wish]().union(*(job.wishes for job in jobs)))
        if isinstance(whole, Refusal):
            return [whole] * len(jobs)
        answers, begin = [], 0
        for job in jobs:
            answers.append(take(whole, slice(begin, begin + job.rows)))
            begin += job.rows
        return answers

    def _prepare(self, instances: "Sequence[Instance]", wishes: frozenset[Wish]) -> list[_Job]:
        inputs = self._preprocess(instances)
        parts = [slice(begin, begin + self._max_rows) for begin in range(0, len(instances), self._max_rows)]
        return [_Job(instances[rows], _rows(inputs, rows), wishes) for rows in parts]

    def _merge(self, jobs: Sequence[_Job]) -> Inputs:
        tensors = [job.inputs for job in jobs if isinstance(job.inputs, Tensor)]
        if len(tensors) < len(jobs):
            # Each was padded to its own longest row; together they are padded to the longest of all.
            return self._preprocess([instance for job in jobs for instance in job.instances])
        if len({tensor.dtype for tensor in tensors}) > 1:
            tensors = [tensor if tensor.is_floating_point() else tensor.float() / 255 for tensor in tensors]
        return torch.cat(tensors)

    def _preprocess(self, instances: "Sequence[Instance]") -> Inputs:
        return self._encoder.preprocess({self._encoder.column: _column(instances)})

    async def _in_worker(self, call: Callable[[], Answer | Refusal]) -> Answer | Refusal:
        return await asyncio.get_running_loop().run_in_executor(self._worker, call)


class Model(Answering):
    """All of a bundle in one process: members, heads and detectors on one forward pass.

    Args:
        bundle: Its folder.
        version: The version that was deployed; another one that lies there now is refused.
        batching: How requests share a pass.
        device: Where the members are.
    """

    def __init__(self, bundle: str, version: str, batching: Batching, device: str = "cpu") -> None:
        self._predictor = Predictor(opened(bundle, version), device)
        super().__init__(self._predictor.encoder, batching)
        # A bundle that cannot answer must fail here, where the deployment says so, not at the first request.
        (job,) = self._prepare(
            [PROBES[self._encoder.modality]], frozenset[Wish](["proba", "heads", "scores"])
        )
        self._compute(job.inputs, job.wishes)

    async def _forward(self, inputs: Inputs, wishes: frozenset[Wish]) -> Answer | Refusal:
        return await self._in_worker(lambda: self._compute(inputs, wishes))

    def _compute(self, inputs: Inputs, wishes: frozenset[Wish]) -> Answer:
        heads, detectors = _parts(wishes)
        with _without_gradients(self._predictor):
            if wishes == {"features"}:
                return Answer(features=_numpy(self._predictor.encoder(_to(inputs, self._predictor)).pooled))
            return _answer(self._predictor(inputs, heads, detectors), wishes)


class Member:
    """One member of a bundle, for `placement: spread`.

    Args:
        bundle: Its folder.
        version: The version that was deployed.
        name: Which member.
        device: Where it is.
    """

    def __init__(self, bundle: str, version: str, name: str, device: str = "cpu") -> None:
        self._encoder = load_member(opened(bundle, version), name).to(device)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forward")

    async def features(self, inputs: Inputs, want: Collection[Want]) -> Features:
        """Return the features of n preprocessed inputs."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._compute, inputs, want)

    def _compute(self, inputs: Inputs, want: Collection[Want]) -> Features:
        # Not inference mode: its tensors would stay marked on the other side.
        with torch.no_grad():
            return self._encoder(_to(inputs, self._encoder), want).to("cpu").detach()


class SpreadModel(Answering):
    """Asks all members in parallel and judges from what came in time; without some, the answer is degraded.

    A degraded answer is the mean of the logits that came. Heads and detectors were fitted on all members'
    features together, so there are none. A member that was late is left out for a while.

    Args:
        bundle: Its folder.
        version: The version that was deployed.
        batching: How requests share a pass.
        spread: Deadlines.
        members: Member → how to ask it.
    """

    def __init__(
        self, bundle: str, version: str, batching: Batching, spread: Spread, members: Mapping[str, Ask]
    ) -> None:
        verified = opened(bundle, version)
        self._judge = Judge(verified)
        self._members = {name: members[name] for name in verified.manifest.members}
        self._spread = spread
        self._resting: dict[str, float] = {}
        super().__init__(preprocessor(verified), batching)

    async def _forward(self, inputs: Inputs, wishes: frozenset[Wish]) -> Answer | Refusal:
        parts = await self._gather(inputs, self._want(wishes))
        missing = [name for name in self._members if name not in parts]
        if not parts:
            return Refusal(503, "no member of the ensemble answers; try again later")
        return await self._in_worker(lambda: self._compute(parts, missing, wishes))

    def _want(self, wishes: frozenset[Wish]) -> set[Want]:
        logits: set[Want] = {"logits"} if self._encoder.num_classes else set()
        return set() if wishes == {"features"} else self._judge.want(*_parts(wishes)) | logits

    async def _gather(self, inputs: Inputs, want: Collection[Want]) -> dict[str, Features]:
        clock = asyncio.get_running_loop().time
        awake = [name for name in self._members if self._resting.get(name, 0) <= clock()]
        asked = {
            name: asyncio.ensure_future(self._members[name](inputs, want))
            for name in awake or list(self._members)
        }
        try:
            await asyncio.wait(asked.values(), timeout=self._spread.deadline_s)
        finally:
            for task in asked.values():
                task.cancel()
        came = {
            name: task.result()
            for name, task in asked.items()
            if task.done() and not task.cancelled() and task.exception() is None
        }
        for name in asked:
            self._resting[name] = 0 if name in came else clock() + self._spread.rest_s
        return came

    def _compute(
        self, parts: Mapping[str, Features], missing: Sequence[str], wishes: frozenset[Wish]
    ) -> Answer | Refusal:
        features = (
            next(iter(parts.values()))
            if len(self._members) == 1
            else join(parts, self._judge.bundle.manifest.rule)
        )
        if wishes == {"features"}:
            return _needs_all(missing) if missing else Answer(features=_numpy(features.pooled))
        with _without_gradients(self._judge):
            if not missing:
                return _answer(self._judge.judge(features, *_parts(wishes)), wishes)
            if features.logits is None:
                return _needs_all(missing)
            return Answer(proba=_numpy(self._judge.from_logits(features)), missing=missing)


def opened(bundle: str, version: str) -> Bundle:
    """Return a verified bundle.

    Raises:
        BundleError: It is damaged, or is not the one that was deployed.
    """
    found = load(Path(bundle))
    if found.version != version:
        raise BundleError(
            f"{bundle}: is now version {found.version}, deployed was {version}; deploy it again"
        )
    return found


def _needs_all(missing: Sequence[str]) -> Refusal:
    return Refusal(503, f"members that are needed do not answer ({', '.join(missing)}); try again later")


def _parts(wishes: frozenset[Wish]) -> tuple[Collection[str] | None, Collection[str] | None]:
    """Heads and detectors: None is all of them."""
    return None if "heads" in wishes else (), None if "scores" in wishes else ()


def _answer(told: Prediction, wishes: frozenset[Wish]) -> Answer:
    return Answer(
        proba=_numpy(told.proba),
        heads={name: _numpy(values) for name, values in told.heads.items()} if "heads" in wishes else {},
        scores={name: _numpy(values) for name, values in told.scores.items()},
        features=_numpy(told.features.pooled) if "features" in wishes else None,
    )


def _without_gradients(judge: Judge) -> torch.no_grad | torch.inference_mode:
    return torch.no_grad() if judge.needs_gradients else torch.inference_mode()


def _column(instances: "Sequence[Instance]") -> np.ndarray:
    shapes = {(v.shape, v.dtype) if isinstance(v, np.ndarray) else None for v in instances}
    if len(shapes) == 1 and None not in shapes:
        return np.stack([np.asarray(instance) for instance in instances])
    column = np.empty(len(instances), dtype=object)
    for row, instance in enumerate(instances):
        column[row] = instance
    return column


def _rows(inputs: Inputs, rows: slice) -> Inputs:
    return (
        inputs[rows] if isinstance(inputs, Tensor) else {name: value[rows] for name, value in inputs.items()}
    )


def _to(inputs: Inputs, model: Predictor | Encoder) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs.to(model.device)
    return {name: value.to(model.device) for name, value in inputs.items()}


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
