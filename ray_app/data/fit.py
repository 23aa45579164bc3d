"""Fit methods over any number of rows in one parallel pass: sums are made where the rows are, then merged."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import nn

from ray_app import registry
from ray_app.data.cache import Cache, folder_of
from ray_app.data.calibration import usual
from ray_app.data.dataset import Dataset, RejectLimit
from ray_app.data.encoding import Encoding, make_encoder
from ray_app.data.payload import Taught, Work
from ray_app.data.sources import Read, Unit
from ray_app.data.stages import Reading
from ray_app.errors import DataError, SpecError
from ray_app.methods import Mergeable
from ray_app.methods.encoders import Encoder, Features, Want
from ray_app.progress import Reporter, Silent
from ray_app.spec import Method
from ray_app.spec.dataset import Compute, DatasetSpec

if TYPE_CHECKING:
    import numpy as np

    from ray_app.methods import Batch

Learner = tuple[Literal["heads", "detectors"], Method]
"""A family and a method of it."""


@dataclass(frozen=True)
class FitPlan:
    """What a process needs to learn from rows: names and options, rather than weights."""

    learners: Mapping[str, Learner]
    encoder: Method | None = None
    bundle: str | None = None
    built: Encoder | None = None
    """An encoder that exists in the caller's process only."""
    compute: Compute = field(default_factory=Compute)
    num_cpus: float | None = None
    device: str = "cpu"


class Fitting:
    """Learns from units; what it learned leaves as bytes.

    Args:
        plan: What to construct.

    Raises:
        SpecError: A method cannot be fitted in one pass.
    """

    def __init__(self, plan: FitPlan) -> None:
        if plan.num_cpus is not None:
            # A reused worker keeps the threads of whoever imported torch in it first.
            torch.set_num_threads(max(1, int(plan.num_cpus)))
        self.plan = plan
        self.encoder = plan.built if plan.built is not None else make_encoder(plan.encoder, plan.bundle)
        needs = {need for learner in self.fresh().values() for need in cast(Any, learner).needs}
        settings = usual(plan.compute, plan.device)
        if settings.dtype == "int8":
            # Rounded rows lie around the exact ones.
            settings = replace(settings, dtype="float32")
        self.encoding = Encoding(
            self.encoder, settings, device=plan.device, want=cast("set[Want]", needs - {"input_grad"})
        )
        folder = folder_of(plan.compute.cache)
        if folder is not None and needs <= {"layers", "logits"}:
            self.encoding.cache = Cache(folder, self.encoder, settings.dtype, sorted(needs))

    def fresh(self) -> dict[str, nn.Module]:
        """Construct the methods, with nothing learned.

        Raises:
            SpecError: One is unknown, or cannot be fitted in one pass.
        """
        made = {
            name: registry.build(family, method.name, method.options, encoder=self.encoder)
            for name, (family, method) in self.plan.learners.items()
        }
        for name, learner in made.items():
            if not isinstance(learner, Mergeable):
                family, method = self.plan.learners[name]
                raise SpecError(
                    f"{family}/{method.name}: cannot be fitted in one parallel pass, as it has no partial_fit"
                    " and merge; fit it in one process"
                )
        return {name: learner.to(self.plan.device) for name, learner in made.items()}

    def learn(self, works: Iterable[Work], learners: Mapping[str, nn.Module]) -> Taught:
        """Let methods learn from units; the answer has the counts, and no state."""
        rows = units = 0
        rejected: list[str] = []

        def use(features: Features, batch: "Batch") -> "dict[str, np.ndarray]":
            nonlocal rows
            rows += len(features)
            labels = (
                torch.from_numpy(batch["label"].copy()).to(self.plan.device) if "label" in batch else None
            )
            for learner in learners.values():
                cast(Mergeable, learner).partial_fit(features, labels)
            return {}

        for work in works:
            read = self.encoding.each(Read(work.batch, work.rejected), use)
            rejected += [f"{bad.row_id}: {bad.reason}" for bad in read.rejected]
            units += 1
        return Taught(b"", rows, units, rejected)

    def teach(self, works: Iterable[Work]) -> Taught:
        """Return what fresh methods learn from units."""
        learners = self.fresh()
        taught = self.learn(works, learners)
        tensors = {
            f"{name}/{key}": tensor.detach().cpu().contiguous()
            for name, learner in learners.items()
            for key, tensor in learner.state_dict().items()
        }
        return replace(taught, state=to_bytes(tensors))

    def merge(self, total: Mapping[str, nn.Module], state: bytes) -> None:
        """Let methods learn what others learned elsewhere."""
        tensors = from_bytes(state)
        for name, learner in self.fresh().items():
            own = {
                key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(f"{name}/")
            }
            learner.load_state_dict(own)
            cast(Any, total[name]).merge(learner)


def fit(
    dataset: Dataset,
    encoder: Encoder | Method | str,
    learners: Mapping[str, Learner],
    *,
    split: str | None = None,
    compute: Compute | None = None,
    address: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, nn.Module]:
    """Fit methods with sums (`Mergeable`) on a dataset's features.

    Args:
        dataset: Its rows; labels are used where there are any.
        encoder: In this process, by name and options, or a bundle's path.
        learners: Name → family and method.
        split: Which rows; None: all.
        compute: What may be used; None: chosen by the number of rows.
        address: Of the cluster, where it runs on Ray and this process is not connected.
        reporter: Where progress goes.

    Returns:
        Name → the fitted method, on the CPU.

    Raises:
        SpecError: No such split, or a method that cannot be fitted in one pass.
        DataError: No rows, or too many rejected.
        RunError: The cluster is too small, or the run failed.
    """
    compute = compute or Compute()
    dataset.check_split(split)
    units = dataset.units()
    local = compute.is_local(sum(map(len, units)))
    plan = FitPlan(
        learners,
        encoder if isinstance(encoder, Method) else None,
        str(Path(encoder).absolute()) if isinstance(encoder, str) else None,
        encoder if isinstance(encoder, nn.Module) else None,
        compute,
        device="cuda" if compute.num_gpus else "cpu",
    )
    limit = RejectLimit(dataset.name, dataset.spec.max_rejected, sum(map(len, units)))
    # Methods are merged here; constructing it also tells, before anything starts, whether it can be.
    fitting = Fitting(plan if local else replace(plan, device="cpu"))
    total, rows = fitting.fresh(), 0
    reading = Reading(without_scores(dataset), split, scores=False)
    with (reporter or Silent()).work(f"fitting on {dataset.name}", len(units)) as work:
        for taught in _taught(fitting, total, reading, units, compute, address, local=local):
            if taught.state:
                fitting.merge(total, taught.state)
            rows += taught.rows
            limit.add(taught.rejected)
            work.advance(taught.units, f"{rows:,} rows")
    if not rows:
        raise DataError(f"{dataset.name}: {dataset.none_left(split)}")
    return {name: learner.cpu() for name, learner in total.items()}


def _taught(
    fitting: Fitting,
    total: Mapping[str, nn.Module],
    reading: Reading,
    units: Sequence[Unit],
    compute: Compute,
    address: str | None,
    *,
    local: bool,
) -> Iterator[Taught]:
    if local:
        yield from (fitting.learn([work], total) for work in reading(units))
        return
    # Ray takes seconds to import.
    from ray_app.data import on_ray
    from ray_app.session import session

    with session(address):
        yield from on_ray.fit(reading, replace(fitting.plan, num_cpus=compute.num_cpus), units, compute)


def without_scores(dataset: Dataset) -> Dataset:
    """Return the dataset without its scorers and selectors: nobody here reads what they make."""
    spec: DatasetSpec = dataset.spec.model_copy(update={"scorers": [], "selectors": []})
    return Dataset(spec, dataset.origin)
