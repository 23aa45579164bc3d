"""The stages of a build: read, encode, write. Plain callables on units; the executors know where they run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ray_app import registry
from ray_app.data.dataset import Dataset
from ray_app.data.ledger import Ledger
from ray_app.data.payload import Done, Work
from ray_app.data.sources import Read, Unit
from ray_app.errors import DataError
from ray_app.spec import Method
from ray_app.spec.dataset import DatasetSpec, score_of

if TYPE_CHECKING:
    from ray_app.methods import Batch
    from ray_app.methods.detectors import Detector
    from ray_app.methods.encoders import Encoder, Features, Want
    from ray_app.methods.scorers import Scorer

COMPUTED = ("embedding", "logits", "score_")
"""What the names of computed columns begin with."""


class Reading:
    """Units to rows: read, decoded, transformed, scored by those scorers that need no features.

    Args:
        dataset: Whose units.
        split: Which rows; None: all.
    """

    def __init__(self, dataset: Dataset, split: str | None = None) -> None:
        self.dataset = dataset
        self.split = split
        steps = [step for step in dataset.spec.scorers if score_of(step)[0] == "scorers"]
        self.scorers: dict[str, Scorer] = {
            score_of(step)[1]: registry.build("scorers", score_of(step)[1], step.options) for step in steps
        }

    def __call__(self, units: Sequence[Unit]) -> Iterator[Work]:
        """Return each unit's rows.

        Raises:
            DataError: The input is gone, damaged, or lacks a column.
        """
        for unit, read in self.dataset.stream(units, self.split):
            scores = {
                f"score_{name}": self._score(read, name, scorer) for name, scorer in self.scorers.items()
            }
            yield Work(unit, {**read.batch, **scores}, read.rejected)

    def _score(self, read: Read, name: str, scorer: "Scorer") -> np.ndarray:
        if missing := [column for column in scorer.columns if column not in read.batch]:
            raise DataError(
                f"{self.dataset.name}: scorers/{name} reads the column {missing[0]!r}, which is not there"
                f" (columns: {', '.join(read.batch)}); map it with `columns:`"
            )
        return np.asarray(scorer.score(read.batch))


@dataclass(frozen=True)
class EncodePlan:
    """How to make the encode stage in whatever process runs it: names, options and paths, no weights."""

    encoder: Method | None
    bundle: str | None
    layers: bool
    logits: bool
    batch_size: int
    num_cpus: float | None
    """None: leave torch's threads as they are."""
    device: str
    detectors: Mapping[str, tuple[Method, str]] = field(default_factory=dict)
    """Detector → its method, and the safetensors file with what it learned."""
    from_bundle: tuple[str, ...] = ()
    """The bundle's detectors that score."""

    @classmethod
    def of(cls, spec: DatasetSpec, fitted: Path, *, alone: bool) -> "EncodePlan":
        """Return what a spec asks for.

        Args:
            spec: It has an encoder or a bundle.
            fitted: Folder with what detectors learned, `<name>.safetensors`.
            alone: Whether a process of its own runs the stage, so that its threads may be set.
        """
        steps = [step for step in spec.scorers if score_of(step)[0] == "detectors"]
        own = {
            score_of(step)[1]: (learner(step), str(fitted / f"{score_of(step)[1]}.safetensors"))
            for step in steps
            if spec.bundle is None
        }
        return cls(
            encoder=spec.encoder,
            # A worker runs in another folder.
            bundle=str(Path(spec.bundle).absolute()) if spec.bundle is not None else None,
            layers=spec.layers,
            logits=spec.logits,
            batch_size=spec.compute.batch_size,
            num_cpus=spec.compute.num_cpus if alone else None,
            device="cuda" if spec.compute.num_gpus else "cpu",
            detectors=own,
            from_bundle=tuple(score_of(step)[1] for step in steps) if spec.bundle is not None else (),
        )


class Encode:
    """Rows to rows with `embedding`, and what else the plan asks for. Heavy to construct: one in a process.

    Args:
        plan: What to construct.
    """

    def __init__(self, plan: EncodePlan) -> None:
        # Heavy, and the reading and writing stages do without.
        import torch

        from ray_app.data.encoding import Encoding

        if plan.num_cpus is not None:
            # A reused worker keeps the threads of whoever imported torch in it first.
            torch.set_num_threads(max(1, int(plan.num_cpus)))
        encoder, self.detectors = _models(plan)
        needs = {need for detector in self.detectors.values() for need in detector.needs}
        asked = {"layers"} if plan.layers else set()
        asked |= {"logits"} if plan.logits else set()
        want = (needs - {"input_grad"}) | ({"inputs"} if "input_grad" in needs else set()) | asked
        self.plan = plan
        self.encoding = Encoding(
            encoder,
            batch_size=plan.batch_size,
            device=plan.device,
            want=cast("set[Want]", want),
            gradients="input_grad" in needs,
        )

    def __call__(self, work: Work) -> Work:
        """Encode a unit.

        Raises:
            DataError: The encoder's column is missing, or one row alone does not fit the device.
        """
        read = self.encoding.each(Read(work.batch, work.rejected), self._columns)
        return Work(work.unit, read.batch, read.rejected)

    def _columns(self, features: "Features", batch: "Batch") -> dict[str, np.ndarray]:
        columns = {"embedding": features.pooled.float().cpu().numpy()}
        if self.plan.layers:
            columns |= {
                f"embedding_{name}": layer.float().cpu().numpy() for name, layer in features.layers.items()
            }
        if self.plan.logits and features.logits is not None:
            columns["logits"] = features.logits.float().cpu().numpy()
        for name, detector in self.detectors.items():
            columns[f"score_{name}"] = detector.score(features).detach().float().cpu().numpy()
        return columns


class Writing:
    """Rows to a committed part of the output.

    Args:
        ledger: Where to.
        keep: Columns to write beside `row_id`, `label` and the computed ones; None: all.
    """

    def __init__(self, ledger: Ledger, keep: Sequence[str] | None) -> None:
        self.ledger = ledger
        self.keep = keep

    def __call__(self, work: Work) -> Done:
        """Write a unit's rejected rows, then its good ones, which commits it.

        Raises:
            DataError: A column that `keep` names is missing, or cannot be written.
        """
        batch = work.batch
        if self.keep is not None:
            # A unit of which no row is left may lack columns that a later stage would have added.
            if len(work) and (missing := [column for column in self.keep if column not in batch]):
                raise DataError(f"keep: no column {missing[0]!r} (columns: {', '.join(batch)})")
            wanted = {"row_id", "label", *self.keep}
            batch = {
                name: values for name, values in batch.items() if name in wanted or name.startswith(COMPUTED)
            }
        return self.ledger.commit(Work(work.unit, batch, work.rejected))


def learner(step: Method) -> Method:
    """Return a score step's detector without the engine's own key."""
    return Method(name=score_of(step)[1], options={k: v for k, v in step.options.items() if k != "fit"})


def _models(plan: EncodePlan) -> "tuple[Encoder, dict[str, Detector]]":
    from safetensors.torch import load_file

    if plan.bundle is not None:
        from ray_app import bundle as bundles
        from ray_app.predictor import Predictor

        predictor = Predictor(bundles.load(plan.bundle), plan.device)
        if unknown := [name for name in plan.from_bundle if name not in predictor.detectors]:
            raise DataError(
                f"{plan.bundle}: has no detector {unknown[0]!r}"
                f" (detectors: {', '.join(predictor.detectors) or 'none'})"
            )
        return predictor.encoder, {
            name: cast("Detector", predictor.detectors[name]) for name in plan.from_bundle
        }
    from ray_app.data.encoding import make_encoder

    encoder = make_encoder(plan.encoder, None)
    detectors: dict[str, Detector] = {}
    for name, (method, file) in plan.detectors.items():
        detector = registry.build("detectors", method.name, method.options, encoder=encoder)
        detector.load_state_dict(load_file(file))
        detectors[name] = detector.eval().to(plan.device)
    return encoder, detectors


__all__ = ["COMPUTED", "Encode", "EncodePlan", "Reading", "Writing", "learner"]
