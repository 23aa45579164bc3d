"""A whole tune run: stages, sweep, combination, bundle. Killed and run again, it goes on where it was."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ray_app import registry
from ray_app.bundle import Bundle
from ray_app.data.dataset import Dataset, open_dataset
from ray_app.errors import RunError, SpecError
from ray_app.methods.combiners import Candidate, Weights
from ray_app.methods.encoders import Encoder
from ray_app.progress import Reporter
from ray_app.session import check_resources, fetch, submit
from ray_app.spec import Method
from ray_app.spec.tune import Stage, TuneSpec
from ray_app.tune import export as exporting
from ray_app.tune.combine import Kept, OnRows, Result, choose, combine_all, fill
from ray_app.tune.ledger import Ledger
from ray_app.tune.start import Start, build_model, linear_probe, objective_for, run_stage, stage_key
from ray_app.tune.store import digest, open_state, read_json, read_state, write_json, write_state
from ray_app.tune.sweep import run_sweep
from ray_app.tune.team import check
from ray_app.tune.training import Rows, logits_of, recalibrate
from ray_app.tune.trial import KEPT, Shared

RECORD = "run.json"
"""What a folder is for."""


@dataclass(frozen=True)
class TuneRun:
    """A finished run."""

    folder: Path
    leaderboard: pa.Table
    """A row a trial, best first."""
    results: list[Result]
    """The best single candidate, and each combination."""
    chosen: Result
    bundle: Bundle
    spec: TuneSpec
    start: Start
    """What all trials were trained from."""
    splits: "Splits"


def run(spec: TuneSpec, folder: Path, reporter: Reporter) -> TuneRun:
    """Run a spec in a folder, or go on with it; Ray is connected already.

    Raises:
        SpecError: The dataset or the model does not fit the spec; nothing was written.
        RunError: The folder holds a run of another spec or other data; or every trial failed.
    """
    folder = folder.resolve()
    data = open_dataset(spec.dataset)
    labels = _labels(data)
    for split in (spec.train_split, spec.validation_split, spec.test_split):
        data.check_split(split)
    for stage in spec.stages:
        (open_dataset(stage.dataset) if stage.dataset else data).check_split(stage.split)
    check_resources(*spec.sweep.resources.all_held, "sweep.resources")
    unclaimed = _unclaimed(folder, spec, data)
    splits = Splits(
        *(_rows(spec, data, split) for split in (spec.train_split, spec.validation_split, spec.test_split))
    )
    # Rows or a model that do not fit the spec are refused before anything is written.
    fetch(submit_for(spec, _nothing, *splits.all()))
    if spec.sweep.resources.workers > 1:
        fetch(submit_for(spec, _check_workers, spec, len(labels)))
    if unclaimed is not None:
        write_json(folder / RECORD, unclaimed)
    stages = _stages(spec, data, folder, len(labels), reporter)
    start = _start(spec, data, folder, len(labels), splits.training, stages)
    shared = Shared(
        spec.model,
        len(labels),
        spec.sweep,
        submit_for(spec, read_state, start.path),
        submit_for(spec, read_state, stages[spec.sweep.teacher].path) if spec.sweep.teacher else None,
        splits.training,
        splits.validation,
        folder / "trials",
    )
    ledger = run_sweep(shared, reporter)
    sign = spec.sweep.sign
    ledger.write_table(folder / "leaderboard.parquet", spec.sweep.metric, sign)
    with reporter.work("combine", len(spec.combine) + 1) as work:
        places = _Places(folder, start)
        # In a list, a reference stays one: tasks of that task read the rows where they are.
        combining = submit_for(spec, _combine, spec, len(labels), places, [splits.validation], *splits.all())
        results: list[Result] = fetch(combining)
        chosen = choose(results, spec.export.choose)
        _write_combined(folder / "combined.parquet", results)
        work.advance(
            len(results), f"{chosen.name}: {spec.sweep.metric} {sign * chosen.value:.4f} on validation rows"
        )
    with reporter.work("export", 1) as work:
        origin = exporting.Origin(
            spec.name,
            labels,
            _content(spec),
            {
                "dataset": data.name,
                "fingerprint": data.fingerprint,
                "combination": chosen.name,
                "ingredients": chosen.ingredients,
                "start": start.key,
            },
        )
        bundle: Bundle = fetch(
            submit_for(spec, _export, spec, chosen, origin, folder / "bundle", *splits.all())
        )
        work.advance(1, f"bundle {bundle.version}")
    leaderboard = pq.read_table(folder / "leaderboard.parquet")
    return TuneRun(folder, leaderboard, results, chosen, bundle, spec, start, splits)


@dataclass(frozen=True)
class _Places:
    """Where a combination finds what it reads, and leaves what it makes."""

    folder: Path
    """Of the run."""
    start: Start


@dataclass(frozen=True)
class Splits:
    """References to the three splits' preprocessed rows; the driver never holds the rows themselves."""

    training: Any
    validation: Any
    test: Any

    def all(self) -> tuple[Any, Any, Any]:
        """Return them in the order that tasks take them."""
        return self.training, self.validation, self.test


def _rows(spec: TuneSpec, data: Dataset, split: str, stage: Stage | None = None) -> Any:
    """Return a reference to a split's rows, read where there is room."""
    classes, limit = (stage.classes, stage.rows) if stage else (None, None)
    return submit_for(spec, read_rows, spec.model, data, split, classes, limit)


def submit_for(spec: TuneSpec, function: Any, *args: Any) -> Any:
    """Run a function as a Ray task that holds what one trial holds; return a reference to its result."""
    resources = spec.sweep.resources
    return submit(function, *args, cpus=resources.cpu, gpus=resources.gpu)


def read_rows(
    model: Method, dataset: Dataset, split: str, classes: list[int] | None, limit: int | None
) -> Rows:
    """Read and preprocess a split's labelled rows.

    Args:
        model: The encoder whose preprocessing it is.
        dataset: What to read.
        split: Of the dataset.
        classes: Keep only rows with these labels; None: all.
        limit: Keep at most so many, the first; None: all.
    """
    batch = dataset.read(split, require=("label",))
    labels = torch.from_numpy(np.array(batch["label"], dtype=np.int64))
    encoder: Encoder = registry.build("encoders", model.name, model.options)
    rows = Rows(encoder.preprocess(batch), labels)
    if classes is not None:
        rows = rows[torch.isin(labels, torch.tensor(classes))]
    return rows[slice(limit)]


def _stages(
    spec: TuneSpec, data: Dataset, folder: Path, num_classes: int, reporter: Reporter
) -> dict[str, Start]:
    """Run the stages that are not there yet; return each one's weights by its name, in order."""
    made: dict[str, Start] = {}
    for stage in spec.stages:
        source = open_dataset(stage.dataset) if stage.dataset else data
        # Without a name, the one before, if there is one; none is called `fresh`.
        before = made.get(stage.start or next(reversed(made), ""))
        teacher = made[stage.teacher] if stage.teacher else None
        cpus = spec.sweep.resources.cpu
        key = stage_key(spec.model, stage, source.fingerprint, before, teacher, num_classes, cpus)
        place = folder / "stages" / f"{stage.name}-{key}"
        with reporter.work(f"stage {stage.name}", stage.train.epochs) as work:
            if not (place / "stage.json").exists():
                rows = _rows(spec, source, stage.split, stage)
                args = (spec.model, stage, rows, num_classes, before, teacher, place, key)
                fetch(submit_for(spec, run_stage, *args))
            curve = read_json(place / "stage.json")["curve"]
            work.advance(stage.train.epochs, f"loss {curve[0]['loss']:.3f} to {curve[-1]['loss']:.3f}")
        made[stage.name] = Start(place / "weights.safetensors", key)
    return made


def _start(
    spec: TuneSpec,
    data: Dataset,
    folder: Path,
    num_classes: int,
    training: Any,
    stages: Mapping[str, Start],
) -> Start:
    """Make the classifier that all trials start from, on the last stage's weights."""
    start = list(stages.values())[-1] if stages else None
    key = digest(
        spec.model.model_dump(), start.key if start else None, spec.sweep.head, data.fingerprint, num_classes
    )
    place = folder / "stages" / f"start-{key}" / "weights.safetensors"
    if not place.exists():
        fetch(submit_for(spec, _make_start, spec, num_classes, start, training, place))
    return Start(place, key)


def _make_start(spec: TuneSpec, num_classes: int, before: Start | None, training: Rows, place: Path) -> None:
    encoder = build_model(spec.model, num_classes)
    drawn = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    rows = training[slice(spec.sweep.rows)]
    if before is not None:
        encoder.load_state_dict(read_state(before.path))
        # A short stage leaves running statistics that lag behind its weights; all trials would inherit them.
        recalibrate(encoder, rows)
    if spec.sweep.head == "linear_probe":
        write_state(place, linear_probe(encoder, rows))
        return
    layer = encoder.classifier
    if before is not None and layer is None:
        raise SpecError("sweep.head: fresh needs a classifier of one linear layer to draw anew")
    last = set() if layer is None else {id(parameter) for parameter in layer.parameters()}
    fresh = {name for name, parameter in encoder.named_parameters() if id(parameter) in last}
    state = encoder.state_dict()
    write_state(place, {name: drawn[name] if name in fresh else state[name] for name in state})


def _combine(
    spec: TuneSpec,
    num_classes: int,
    places: _Places,
    shared: list[Any],
    training: Rows,
    validation: Rows,
    test: Rows,
) -> list[Result]:
    encoder = build_model(spec.model, num_classes)
    sign, metric = spec.sweep.sign, spec.sweep.metric
    candidates = Ledger(places.folder / "trials").candidates(metric, sign)
    training = training[slice(spec.sweep.rows)]

    def at_once(several: Sequence[Candidate]) -> list[torch.Tensor]:
        tasks = [submit_for(spec, _logits, spec.model, num_classes, one.load, shared[0]) for one in several]
        found: list[torch.Tensor] = fetch(tasks)
        return found

    evaluate = OnRows(
        encoder,
        validation,
        training,
        metric,
        start=open_state(places.start.path),
        kept=Kept(places.folder / KEPT),
        at_once=at_once,
    )
    return combine_all(
        spec.combine,
        candidates,
        evaluate,
        OnRows(encoder, test, training, metric),
        test.labels.numpy(),
        places.folder / "combined",
    )


def _logits(model: Method, num_classes: int, load: Callable[[], Weights], rows: Rows) -> torch.Tensor:
    """Evaluate one candidate, in a task of its own."""
    encoder = build_model(model, num_classes)
    fill(encoder, load())
    return logits_of(encoder, rows)


def _export(
    spec: TuneSpec,
    chosen: Result,
    origin: exporting.Origin,
    to: Path,
    training: Rows,
    validation: Rows,
    test: Rows,
) -> Bundle:
    splits = exporting.Splits(training[slice(spec.sweep.rows)], validation, test)
    return exporting.export(spec.model, chosen.files, splits, spec.export, origin, to, chosen.rule)


def _write_combined(path: Path, results: Sequence[Result]) -> None:
    steps = [(result, index, step) for result in results for index, step in enumerate(result.history)]
    table = pa.table(
        {
            "combination": [result.name for result, _, _ in steps],
            "step": [index for _, index, _ in steps],
            "ingredient": [step.ingredient for _, _, step in steps],
            "value": [step.value for _, _, step in steps],
            "kept": [step.kept for _, _, step in steps],
            "gain": [step.gain for _, _, step in steps],
            "final_value": [result.value for result, _, _ in steps],
            "test_accuracy": [result.test_accuracy for result, _, _ in steps],
            "test_nll": [result.test_nll for result, _, _ in steps],
            "members": [len(result.files) for result, _, _ in steps],
        }
    )
    temporary = path.with_name(f".{path.name}")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def _labels(data: Dataset) -> list[str]:
    if not data.labels:
        raise SpecError(f"dataset {data.name}: its classes have no names; add `labels: [...]` to its spec")
    return list(data.labels)


def _nothing(*rows: Rows) -> None:
    """Do nothing; it fails where its arguments could not be made."""


def _check_workers(spec: TuneSpec, num_classes: int) -> None:
    """Refuse what several processes cannot train, before one of them is begun."""
    teacher = build_model(spec.model, num_classes) if spec.sweep.teacher else None
    for how in spec.sweep.trains():
        encoder = build_model(spec.model, num_classes)
        adapter = how.adapter.build("adapters") if how.adapter is not None else None
        objective = objective_for(how, encoder, teacher)
        try:
            check(spec.sweep.resources.parallel, encoder, objective, adapter, how)
        except ValueError as error:
            raise SpecError(f"sweep.{error}") from error


def _unclaimed(folder: Path, spec: TuneSpec, data: Dataset) -> dict[str, Any] | None:
    """Return what to write down about a new folder; None: it says so already, and is checked."""
    record = {"spec": _content(spec), "fingerprint": data.fingerprint}
    path = folder / RECORD
    if path.exists():
        known = cast(dict[str, Any], read_json(path))
        if known["fingerprint"] != record["fingerprint"]:
            raise RunError(f"{folder}: holds a run on other data; give another --out, or delete it")
        if changed := _changed(known["spec"], record["spec"]):
            raise RunError(
                f"{folder}: holds a run of another spec ({changed} differs); give another --out, or delete it"
            )
        return None
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder}: is not empty and holds no run; give another --out")
    return record


def _content(spec: TuneSpec) -> dict[str, Any]:
    """What a run is of. Its report may be asked for in another way afterwards."""
    return spec.model_dump(mode="json", exclude={"report"})


def _changed(known: Any, now: Any, place: str = "") -> str | None:
    if isinstance(known, dict) and isinstance(now, dict):
        for key in {**known, **now}:
            if found := _changed(known.get(key), now.get(key), f"{place}.{key}".lstrip(".")):
                return found
        return None
    return None if known == now else place
