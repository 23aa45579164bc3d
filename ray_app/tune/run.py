"""A whole tune run: stages, sweep, combination, bundle. Killed and run again, it goes on where it was."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from ray_app import registry
from ray_app.bundle import Bundle
from ray_app.data.dataset import Dataset, open_dataset
from ray_app.errors import RunError, SpecError
from ray_app.progress import Reporter
from ray_app.session import total_cpus, total_gpus
from ray_app.spec import Method
from ray_app.spec.tune import Resources, Stage, TuneSpec
from ray_app.tune.combine import OnRows, Result, choose, combine_all
from ray_app.tune.export import Origin, Splits, export
from ray_app.tune.ledger import Ledger
from ray_app.tune.start import Start, build_model, linear_probe, run_stage, stage_key
from ray_app.tune.store import digest, read_json, read_state, write_json, write_state
from ray_app.tune.sweep import Shared, run_sweep
from ray_app.tune.training import Rows


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


def run(spec: TuneSpec, folder: Path, reporter: Reporter) -> TuneRun:
    """Run a spec in a folder, or go on with it; Ray is connected already.

    Raises:
        SpecError: The dataset or the model does not fit the spec; nothing was written.
        RunError: The folder holds a run of another spec or other data; or every trial failed.
    """
    folder = folder.resolve()
    data = open_dataset(spec.dataset)
    labels = _labels(data)
    _check_resources(spec.sweep.resources)
    _claim(folder, spec, data)
    cluster = _Tasks(spec.sweep.resources)
    rows = {
        name: cluster.rows(spec, data, name)
        for name in (spec.train_split, spec.validation_split, spec.test_split)
    }
    start = _start(spec, data, folder, len(labels), rows[spec.train_split], cluster, reporter)
    training, validation = ray.get([rows[spec.train_split], rows[spec.validation_split]])
    shared = Shared(
        spec.model,
        len(labels),
        spec.sweep,
        start,
        _limited(training, spec.sweep.rows),
        validation,
        folder / "trials",
    )
    ledger = run_sweep(shared, reporter)
    sign = -1.0 if spec.sweep.metric == "nll" else 1.0
    ledger.write_table(folder / "leaderboard.parquet", spec.sweep.metric, sign)
    with reporter.work("combine", len(spec.combine) + 1) as work:
        results = ray.get(
            cluster.run(_combine, spec, len(labels), ledger.folder, folder / "combined", *rows.values())
        )
        chosen = choose(results, spec.export.choose)
        _write_combined(folder / "combined.parquet", results)
        work.advance(
            len(results), f"{chosen.name}: {spec.sweep.metric} {sign * chosen.value:.4f} on validation rows"
        )
    with reporter.work("export", 1) as work:
        origin = Origin(
            spec.name,
            labels,
            spec.model_dump(mode="json"),
            {
                "dataset": data.name,
                "fingerprint": data.fingerprint,
                "combination": chosen.name,
                "ingredients": chosen.ingredients,
                "start": start.key,
            },
        )
        bundle = ray.get(cluster.run(_export, spec, chosen, origin, folder / "bundle", *rows.values()))
        work.advance(1, f"bundle {bundle.version}")
    return TuneRun(folder, pq.read_table(folder / "leaderboard.parquet"), results, chosen, bundle)


class _Tasks:
    """Runs a piece of the work as a Ray task with a trial's resources, wherever there is room."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def run(self, function: Any, *args: Any) -> Any:
        """Return a reference to function(*args)."""
        threads = max(1, int(self._resources.cpu))
        remote = ray.remote(num_cpus=self._resources.cpu, num_gpus=self._resources.gpu, max_retries=1)(
            _with_threads
        )
        return remote.remote(threads, function, *args)

    def rows(self, spec: TuneSpec, data: Dataset, split: str, stage: Stage | None = None) -> Any:
        """Return a reference to a split's rows; the driver never holds them."""
        options = (
            {"classes": stage.classes, "limit": stage.rows} if stage else {"classes": None, "limit": None}
        )
        return self.run(_read_rows, spec.model, data.spec, split, options["classes"], options["limit"])


def _with_threads(threads: int, function: Any, *args: Any) -> Any:
    torch.set_num_threads(threads)
    return function(*args)


def _read_rows(model: Method, dataset: Any, split: str, classes: list[int] | None, limit: int | None) -> Rows:
    batch = open_dataset(dataset).read(split, require=("label",))
    labels = torch.from_numpy(np.array(batch["label"], dtype=np.int64))
    encoder = (
        build_model(model, int(labels.max()) + 1)
        if "num_classes" in registry.options("encoders", model.name)
        else (registry.build("encoders", model.name, model.options))
    )
    rows = Rows(encoder.preprocess(batch), labels)
    if classes is not None:
        rows = rows[torch.isin(labels, torch.tensor(classes))]
    return _limited(rows, limit)


def _limited(rows: Rows, limit: int | None) -> Rows:
    return rows if limit is None else rows[slice(limit)]


def _start(
    spec: TuneSpec,
    data: Dataset,
    folder: Path,
    num_classes: int,
    training: Any,
    cluster: _Tasks,
    reporter: Reporter,
) -> Start:
    """Run the stages that are not there yet, then make the classifier that all trials start from."""
    start: Start | None = None
    for stage in spec.stages:
        source = open_dataset(stage.dataset) if stage.dataset else data
        key = stage_key(spec.model, stage, source.fingerprint, start, num_classes, spec.sweep.resources.cpu)
        place = folder / "stages" / f"{stage.name}-{key}"
        with reporter.work(f"stage {stage.name}", stage.train.epochs) as work:
            if not (place / "stage.json").exists():
                rows = cluster.rows(spec, source, stage.split, stage)
                ray.get(cluster.run(run_stage, spec.model, stage, rows, num_classes, start, place, key))
            curve = read_json(place / "stage.json")["curve"]
            work.advance(stage.train.epochs, f"loss {curve[0]['loss']:.3f} to {curve[-1]['loss']:.3f}")
        start = Start(place / "weights.safetensors", key)
    key = digest(
        spec.model.model_dump(), start.key if start else None, spec.sweep.head, data.fingerprint, num_classes
    )
    place = folder / "stages" / f"start-{key}" / "weights.safetensors"
    if not place.exists():
        ray.get(cluster.run(_make_start, spec, num_classes, start, training, place))
    return Start(place, key)


def _make_start(spec: TuneSpec, num_classes: int, before: Start | None, training: Rows, place: Path) -> None:
    encoder = build_model(spec.model, num_classes)
    fresh = encoder.state_dict()
    if before is not None:
        encoder.load_state_dict(read_state(before.path))
    if spec.sweep.head == "linear_probe":
        write_state(place, linear_probe(encoder, _limited(training, spec.sweep.rows), seed=0))
        return
    layer = encoder.classifier
    if before is not None and layer is None:
        raise SpecError("sweep.head: fresh needs a classifier of one linear layer to draw anew")
    state = encoder.state_dict()
    if layer is not None:
        names = [
            name
            for name, parameter in encoder.named_parameters()
            if parameter is layer.weight or parameter is layer.bias
        ]
        drawn = build_model(spec.model, num_classes).state_dict()
        state = {name: drawn[name] if name in names else tensor for name, tensor in state.items()}
    write_state(place, state or fresh)


def _combine(
    spec: TuneSpec, num_classes: int, trials: Path, folder: Path, training: Rows, validation: Rows, test: Rows
) -> list[Result]:
    encoder = build_model(spec.model, num_classes)
    sign = -1.0 if spec.sweep.metric == "nll" else 1.0
    candidates = Ledger(trials).candidates(spec.sweep.metric, sign)
    training = _limited(training, spec.sweep.rows)
    return combine_all(
        spec.combine,
        candidates,
        OnRows(encoder, validation, training, spec.sweep.metric),
        OnRows(encoder, test, training, spec.sweep.metric),
        test.labels.numpy(),
        folder,
    )


def _export(
    spec: TuneSpec, chosen: Result, origin: Origin, to: Path, training: Rows, validation: Rows, test: Rows
) -> Bundle:
    splits = Splits(_limited(training, spec.sweep.rows), validation, test)
    return export(spec.model, chosen.files, splits, spec.export, origin, to)


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


def _check_resources(wanted: Resources) -> None:
    # Ray waits for ever for what the cluster does not have.
    if wanted.cpu > total_cpus():
        raise SpecError(
            f"sweep.resources.cpu: {wanted.cpu:g} asked for, the cluster has {total_cpus():g}; ask for less"
        )
    if wanted.gpu > total_gpus():
        raise SpecError(
            f"sweep.resources.gpu: {wanted.gpu:g} asked for, the cluster has {total_gpus():g}; ask for less"
        )


def _claim(folder: Path, spec: TuneSpec, data: Dataset) -> None:
    """Write down what the folder is for, or check that it is for this."""
    record = {"spec": spec.model_dump(mode="json"), "fingerprint": data.fingerprint}
    path = folder / "run.json"
    if path.exists():
        known = cast(dict[str, Any], read_json(path))
        if known["fingerprint"] != record["fingerprint"]:
            raise RunError(f"{folder}: holds a run on other data; give another --out, or delete it")
        if changed := _changed(known["spec"], record["spec"]):
            raise RunError(
                f"{folder}: holds a run of another spec ({changed} differs); give another --out, or delete it"
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder}: is not empty and holds no run; give another --out")
    write_json(path, record)


def _changed(known: Any, now: Any, place: str = "") -> str | None:
    if isinstance(known, dict) and isinstance(now, dict):
        for key in {**known, **now}:
            if found := _changed(known.get(key), now.get(key), f"{place}.{key}".lstrip(".")):
                return found
        return None
    return None if known == now else place
