"""The stages of a build: read, encode, write. Plain callables on units; the executors know where they run."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ray_app import registry
from ray_app.data.dataset import Dataset
from ray_app.data.learned import build_scorer, learner, load_scorer, read_by_selectors
from ray_app.data.ledger import Ledger
from ray_app.data.payload import Done, Work
from ray_app.data.prepared import PREFIX, light, prepare, prepared_columns
from ray_app.data.sources import Read, Unit
from ray_app.errors import DataError
from ray_app.session import keep_freed_memory
from ray_app.spec import Method
from ray_app.spec.dataset import Compute, DatasetSpec, score_of
from ray_app.storage import Place

if TYPE_CHECKING:
    from ray_app.data.encoding import Settings
    from ray_app.methods import Batch
    from ray_app.methods.detectors import Detector
    from ray_app.methods.encoders import Encoder, Features, Want
    from ray_app.methods.scorers import Scorer

COMPUTED = ("embedding", "logits", "score_")
"""What the names of computed columns begin with."""


class Reading:
    """Units to rows: read, decoded, transformed, scored by light scorers, and prepared for the encoder.

    Args:
        dataset: Whose units.
        split: Which rows; None: all.
        fitted: Folder with what scorers learned; None: there are none here that learn.
        prepares: Whether to do the encoder's preparation here, away from the model.
        scores: Whether to score.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str | None = None,
        *,
        fitted: Place | None = None,
        prepares: bool = False,
        scores: bool = True,
    ) -> None:
        self.dataset = dataset
        self.split = split
        spec = dataset.spec
        self.scorers: dict[str, Scorer] = dict(scorers_of(spec, fitted, heavy=False)) if scores else {}
        self.preparation = light(spec.encoder, _absolute(spec.bundle)) if prepares else None
        # An encoder that prepares for itself may read any column.
        self.wanted = _wanted(spec) if self.preparation is not None else None

    def __call__(self, units: Sequence[Unit]) -> Iterator[Work]:
        """Return each unit's rows.

        Raises:
            DataError: The input is gone, damaged, or lacks a column.
        """
        column = self.preparation.column if self.preparation is not None else None
        # An image goes on as the bytes that it came in, and is decoded at the size that the encoder wants.
        raw = column == "image" and not self.dataset.reads("image")
        begun = time.perf_counter()
        for unit, given in self.dataset.stream(units, self.split, raw=raw):
            at = time.perf_counter()
            read = self._finished(given)
            now = time.perf_counter()
            yield Work(unit, read.batch, read.rejected, {"read_s": at - begun, "prepare_s": now - at})
            begun = time.perf_counter()

    def _finished(self, read: Read) -> Read:
        scores = {
            f"score_{name}": score(read.batch, name, scorer, self.dataset.name)
            for name, scorer in self.scorers.items()
        }
        read = Read({**read.batch, **scores}, read.rejected)
        if self.preparation is None or not len(read.batch["row_id"]):
            return read
        drop = self.wanted is not None and self.preparation.column not in self.wanted
        read = prepare(read, self.preparation, drop=drop)
        return Read(_only(read.batch, self.wanted), read.rejected) if self.wanted is not None else read


@dataclass(frozen=True)
class EncodePlan:
    """How to make the encode stage in whatever process runs it: names, options and paths, no weights."""

    encoder: Method | None
    bundle: str | None
    layers: bool
    logits: bool
    compute: Compute
    num_cpus: float | None
    """None: leave torch's threads as they are."""
    device: str
    calibration: Place | None = None
    """Where it is found out, once for all processes, how the encoder runs fastest; None: it is not."""
    detectors: Mapping[str, tuple[Method, str]] = field(default_factory=dict)
    """Detector → its method, and the safetensors file with what it learned."""
    from_bundle: tuple[str, ...] = ()
    """The bundle's detectors that score."""
    scorers: tuple[Method, ...] = ()
    """The heavy scorers."""
    fitted: Place | None = None
    """Folder with what scorers learned."""

    @classmethod
    def of(cls, spec: DatasetSpec, folder: Place, *, alone: bool) -> "EncodePlan":
        """Return what a spec asks for.

        Args:
            spec: It has an encoder, a bundle or a heavy scorer.
            folder: The build's.
            alone: Whether a process of its own runs the stage, so that its threads may be set.
        """
        steps = [step for step in spec.scorers if score_of(step)[0] == "detectors"]
        fitted = folder / "fitted"
        own = {
            score_of(step)[1]: (learner(step), str(fitted / f"{score_of(step)[1]}.safetensors"))
            for step in steps
            if spec.bundle is None
        }
        return cls(
            encoder=spec.encoder,
            bundle=_absolute(spec.bundle),
            layers=spec.layers,
            logits=spec.logits,
            compute=spec.compute,
            num_cpus=spec.compute.num_cpus if alone else None,
            device="cuda" if spec.compute.num_gpus else "cpu",
            # A few thousand rows are sooner encoded than tried; 8 bits have to be made from some in any case.
            calibration=folder / "calibration.json" if alone or spec.compute.dtype == "int8" else None,
            detectors=own,
            from_bundle=tuple(score_of(step)[1] for step in steps) if spec.bundle is not None else (),
            scorers=tuple(step for step in spec.scorers if is_heavy(step)),
            fitted=fitted,
        )


class Encode:
    """Rows to rows with `embedding`, and what else needs a model. Heavy to construct: one in a process.

    Args:
        plan: What to construct.
    """

    def __init__(self, plan: EncodePlan) -> None:
        begun = time.perf_counter()
        self._load(plan)
        self._spent = {"load_s": time.perf_counter() - begun}

    def _load(self, plan: EncodePlan) -> None:
        # Heavy, and the reading and writing stages do without.
        import torch

        from ray_app.data.cache import Cache, folder_of
        from ray_app.data.calibration import usual
        from ray_app.data.encoding import Encoding

        if plan.num_cpus is not None:
            # A reused worker keeps the threads of whoever imported torch in it first.
            torch.set_num_threads(max(1, int(plan.num_cpus)))
            keep_freed_memory()
        self.plan = plan
        self.scorers = {
            score_of(step)[1]: load_scorer(step, plan.fitted).to(plan.device) for step in plan.scorers
        }
        self.encoding: Encoding | None = None
        self.detectors: dict[str, Detector] = {}
        if plan.encoder is None and plan.bundle is None:
            return
        encoder, self.detectors = _models(plan)
        needs = {need for detector in self.detectors.values() for need in detector.needs}
        asked = {"layers"} if plan.layers else set()
        asked |= {"logits"} if plan.logits else set()
        want = (needs - {"input_grad"}) | ({"inputs"} if "input_grad" in needs else set()) | asked
        settings = usual(plan.compute, plan.device)
        self._calibrated = plan.calibration is None
        self.encoding = Encoding(
            encoder,
            # A trial begins with exact weights.
            settings if self._calibrated else replace(settings, dtype="float32"),
            device=plan.device,
            want=cast("set[Want]", want),
            gradients="input_grad" in needs,
        )
        folder = folder_of(plan.compute.cache)
        self._cached: Callable[[Settings], Cache] | None = None
        if folder is not None and want <= {"layers", "logits"} and plan.compute.dtype != "int8":
            # Of the settings, the dtype alone changes features by more than the order of a sum.
            self._cached = lambda now: Cache(folder, encoder, now.dtype, sorted(want))
        if self._calibrated:
            self._use_cache(settings)

    def __call__(self, work: Work) -> Work:
        """Encode a unit.

        Raises:
            DataError: The encoder's column is missing, or one row alone does not fit the device.
        """
        batch, rejected = work.batch, work.rejected
        # What came before the first unit is told with it.
        spent, self._spent = self._spent, {}
        if self.encoding is not None and len(work) and not self._calibrated:
            begun = time.perf_counter()
            self._calibrate(batch)
            spent["calibrate_s"] = time.perf_counter() - begun
        begun = time.perf_counter()
        scores = {
            f"score_{name}": score(batch, name, scorer, "the build") for name, scorer in self.scorers.items()
        }
        batch = {**batch, **scores}
        if self.encoding is not None and len(work):
            read = self.encoding.each(Read(batch, rejected), self._columns)
            batch, rejected, spent = read.batch, read.rejected, {**spent, **self.encoding.take_spent()}
        # Of what a scorer read, too.
        wall = time.perf_counter() - begun
        return Work(
            work.unit, prepared_columns(batch, keep=False), rejected, {**work.spent, **spent, "model_s": wall}
        )

    def _calibrate(self, batch: "Batch") -> None:
        from ray_app.data.calibration import calibrated, is_open

        if self.plan.calibration is not None and self.encoding is not None and is_open(self.plan.compute):
            calibrated(self.encoding, batch, self.plan.compute, self.plan.calibration)
        if self.encoding is not None:
            self._use_cache(self.encoding.settings)
        self._calibrated = True

    def _use_cache(self, settings: "Settings") -> None:
        if self._cached is not None and self.encoding is not None:
            self.encoding.cache = self._cached(settings)

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
        also: Further columns where there are such: selectors read them.
    """

    def __init__(self, ledger: Ledger, keep: Sequence[str] | None, also: Sequence[str] = ()) -> None:
        self.ledger = ledger
        self.keep = keep
        self.also = also

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
            wanted = {"row_id", "label", *self.keep, *self.also}
            batch = {
                name: values for name, values in batch.items() if name in wanted or name.startswith(COMPUTED)
            }
        begun = time.perf_counter()
        done = self.ledger.commit(Work(work.unit, batch, work.rejected, work.spent))
        return Done(
            done.unit,
            done.rows,
            done.rejected,
            done.reason,
            {**work.spent, "write_s": time.perf_counter() - begun},
        )


def score(batch: "Batch", name: str, scorer: "Scorer", where: str) -> np.ndarray:
    """Return a scorer's numbers, float64 [n].

    Raises:
        DataError: A column that it reads is missing.
    """
    if missing := [column for column in scorer.columns if column not in batch]:
        raise DataError(
            f"{where}: scorers/{name} reads the column {missing[0]!r}, which is not there"
            f" (columns: {', '.join(batch)}); map it with `columns:`"
        )
    return np.asarray(scorer.score(batch))


def scorers_of(spec: DatasetSpec, fitted: Place | None, *, heavy: bool) -> "Iterator[tuple[str, Scorer]]":
    """Return the scorers that read rows, ready to score: those that hold a neural model, or the others."""
    for step in spec.scorers:
        if score_of(step)[0] == "scorers" and is_heavy(step) == heavy:
            yield score_of(step)[1], load_scorer(step, fitted)


def is_heavy(step: Method) -> bool:
    """Tell whether a score step is a scorer with a neural model."""
    if score_of(step)[0] != "scorers":
        return False
    return bool(build_scorer(step).heavy)


def _wanted(spec: DatasetSpec) -> set[str] | None:
    """Columns that the writer, a selector or a heavy scorer will want; None: all."""
    if spec.keep is None:
        return None
    heavy = [step for step in spec.scorers if is_heavy(step)]
    read = {column for step in heavy for column in build_scorer(step).columns}
    return {"row_id", "label", *spec.keep, *read, *read_by_selectors(spec)}


def _only(batch: "Batch", wanted: set[str]) -> "Batch":
    return {
        name: values
        for name, values in batch.items()
        if name in wanted or name.startswith((PREFIX, *COMPUTED))
    }


def _absolute(bundle: str | None) -> str | None:
    # A worker runs in another folder.
    return str(Path(bundle).absolute()) if bundle is not None else None


def _models(plan: EncodePlan) -> "tuple[Encoder, dict[str, Detector]]":
    from safetensors.torch import load

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
        detector.load_state_dict(load(Place.of(file).read_bytes()))
        detectors[name] = detector.eval().to(plan.device)
    return encoder, detectors


__all__ = ["COMPUTED", "Encode", "EncodePlan", "Reading", "Writing", "is_heavy", "scorers_of"]
