"""Build a dataset: stream rows through the stages into Parquet, each once, whatever is killed on the way."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ray_app import __version__
from ray_app.data.dataset import RUNTIME, Dataset, RejectLimit, open_dataset
from ray_app.data.ledger import MANIFEST, PLAN, Ledger, write_bytes, write_json
from ray_app.data.payload import Done
from ray_app.data.sources import Source, Unit, digest
from ray_app.data.stages import Encode, EncodePlan, Reading, Writing, learner
from ray_app.errors import DataError
from ray_app.progress import Reporter, Silent
from ray_app.spec.dataset import FIT, DatasetSpec, score_of

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class BuildResult:
    """What a build made."""

    name: str
    folder: Path
    fingerprint: str
    rows: int
    rejected: int
    units: int
    resumed: int
    """Units that an earlier run had finished; their input was not read again."""

    def __str__(self) -> str:
        """Say it in a line."""
        parts = [f"{self.folder}: {self.rows:,} rows in {self.units:,} units"]
        parts += [f"{self.rejected:,} rejected (see {self.folder / 'rejected'})"] if self.rejected else []
        parts += [f"{self.resumed:,} units were there already"] if self.resumed else []
        return ", ".join(parts)


def build(
    what: DatasetSpec | str | Path,
    out: str | Path,
    *,
    reporter: Reporter | None = None,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
    address: str | None = None,
) -> BuildResult:
    """Build a dataset into a folder; run it again after a kill, and it goes on where it was.

    Args:
        what: A spec or a YAML file.
        out: The folder; it can be opened as a dataset, or named as a `parent`, when it is finished.
        reporter: Where progress goes.
        overrides: Dotted key → value, set over what a YAML file says.
        force: Delete what another spec or another input built there.
        address: Of the cluster, where it runs on Ray and this process is not connected.

    Raises:
        SpecError: The spec does not say what it may; nothing was written.
        DataError: There is nothing to read, too much was rejected, or the folder holds something else.
        RunError: The cluster is too small, or the run failed.
    """
    dataset = open_dataset(what, overrides)
    units = dataset.units()
    plan = _plan(dataset)
    ledger = Ledger(Path(out), _lineage(dataset))
    fresh = _claim(ledger, plan, units, force=force)
    if (ledger.folder / MANIFEST).exists():
        return _result(ledger, json.loads((ledger.folder / MANIFEST).read_text(encoding="utf-8")), len(units))
    if fresh:
        # What would fail on every row fails here, before anything is written.
        next(iter(Reading(dataset)(units[:1])))
        ledger.write_plan(plan, units)
    try:
        return _run(dataset, ledger, units, reporter or Silent(), address)
    except BaseException:
        if fresh and not any((ledger.folder / "data").glob("part-*")):
            # Nothing in it would help the next run.
            shutil.rmtree(ledger.folder, ignore_errors=True)
        raise


def _run(
    dataset: Dataset, ledger: Ledger, units: list[Unit], reporter: Reporter, address: str | None
) -> BuildResult:
    ledger.clean()
    finished = {name: path for name, path in ledger.finished().items() if name in {unit.id for unit in units}}
    left = [unit for unit in units if unit.id not in finished]
    limit = RejectLimit(dataset.name, dataset.spec.max_rejected, sum(map(len, units)))
    rows = 0
    before = ledger.done(finished.values())
    with reporter.work(f"building {dataset.name}", len(units)) as work:
        for done in before:
            rows += done.rows
            limit.add([done.reason] * done.rejected)
        work.advance(len(before), f"{rows:,} rows")
        for done in _execute(dataset, ledger, left, reporter, address) if left else []:
            rows += done.rows
            limit.add([done.reason] * done.rejected)
            work.advance(1, f"{rows:,} rows")
    if not rows:
        raise DataError(f"{dataset.name}: {dataset.none_left(None)}")
    manifest = _manifest(dataset, ledger, units, rows, limit.count)
    write_json(ledger.folder / MANIFEST, manifest)
    limit.log()
    return _result(ledger, manifest, len(before))


def _execute(
    dataset: Dataset, ledger: Ledger, units: Sequence[Unit], reporter: Reporter, address: str | None
) -> Iterator[Done]:
    spec = dataset.spec
    local = spec.compute.is_local(sum(map(len, units)))
    encodes = spec.encoder is not None or spec.bundle is not None
    fitted = ledger.folder / "fitted"
    _fit_detectors(dataset, fitted, reporter, address)
    plan = EncodePlan.of(spec, fitted, alone=not local) if encodes else None
    reading, writing = Reading(dataset), Writing(ledger, spec.keep)
    if local:
        encode = Encode(plan) if plan is not None else None
        for work in reading(units):
            yield writing(encode(work) if encode is not None else work)
        return
    # Ray takes seconds to import.
    from ray_app.data import on_ray
    from ray_app.session import session

    with session(address):
        yield from on_ray.run(reading, plan, writing, units, spec.compute)


def _fit_detectors(dataset: Dataset, folder: Path, reporter: Reporter, address: str | None) -> None:
    """Let the detectors that say `fit:` learn, each once for the whole build, also when it is resumed."""
    by_split: dict[str, dict[str, Any]] = {}
    for step in dataset.spec.scorers:
        family, name = score_of(step)
        if (
            family == "detectors"
            and dataset.spec.bundle is None
            and not (folder / f"{name}.safetensors").exists()
        ):
            by_split.setdefault(step.options[FIT], {})[name] = ("detectors", learner(step))
    if not by_split:
        return
    # torch, which a build without an encoder does not need.
    from safetensors.torch import save

    from ray_app.data.fit import fit

    for split, learners in by_split.items():
        teacher = (
            dataset.origin
            if dataset.spec.split is not None and isinstance(dataset.origin, Dataset)
            else dataset
        )
        encoder = dataset.spec.encoder
        if encoder is None:
            raise DataError(f"{dataset.name}: no encoder to fit {', '.join(learners)} with; give `encoder`")
        learned = fit(
            teacher,
            encoder,
            learners,
            split=split,
            compute=dataset.spec.compute,
            address=address,
            reporter=reporter,
        )
        for name, module in learned.items():
            tensors = {key: tensor.contiguous() for key, tensor in module.state_dict().items()}
            write_bytes(folder / f"{name}.safetensors", save(tensors))


def _claim(ledger: Ledger, plan: dict[str, Any], units: list[Unit], *, force: bool) -> bool:
    """Make sure that the folder is ours to write; tell whether the build begins anew."""
    folder = ledger.folder
    if not folder.exists() or not any(folder.iterdir()):
        return True
    if not (folder / PLAN).exists() and not _only_ours(folder):
        raise DataError(f"{folder}: holds something else than a dataset; give another --out")
    old = ledger.read_plan()
    changed = _changed(old, plan, ledger, units) if old is not None else "it was only just begun"
    if old is not None and not changed:
        return False
    if old is not None and not force:
        raise DataError(
            f"{folder}: was begun differently: {changed};"
            " give another --out, or --force to delete it and build anew"
        )
    shutil.rmtree(folder)
    return True


def _only_ours(folder: Path) -> bool:
    # A run that was killed while it wrote the plan leaves the list of units, or a hidden file.
    return all(
        path.name in ("units.parquet",) or path.name.startswith(".writing-") for path in folder.iterdir()
    )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], ledger: Ledger, units: list[Unit]) -> str:
    if old.get("schema_version") != new["schema_version"]:
        return f"schema {old.get('schema_version')}, and ray-app {__version__} writes {new['schema_version']}"
    before, now = _with_defaults(old.get("spec", {})), new["spec"]
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            return f"`{key}` was {_short(before.get(key))} and is {_short(now.get(key))}"
    if old.get("bundle") != new["bundle"]:
        return f"the bundle was version {old.get('bundle')} and is {new['bundle']}"
    if old.get("input") != new["input"]:
        return f"the input changed: {ledger.changed_units(units) or 'its fingerprint is another'}"
    return ""


def _with_defaults(spec: dict[str, Any]) -> dict[str, Any]:
    # A plan of an older version lacks the keys that were added since.
    try:
        return DatasetSpec.model_validate(spec).model_dump(mode="json", exclude=set(RUNTIME))
    except ValidationError:
        return spec


def _plan(dataset: Dataset) -> dict[str, Any]:
    spec = dataset.spec.model_dump(mode="json", exclude=set(RUNTIME))
    origin = dataset.origin
    plan = {
        "schema_version": SCHEMA_VERSION,
        "spec": spec,
        "input": origin.fingerprint() if isinstance(origin, Source) else origin.fingerprint,
        "bundle": _bundle_version(dataset.spec.bundle),
    }
    # As it will be read back.
    return dict(json.loads(json.dumps(plan)))


def _bundle_version(bundle: str | None) -> str | None:
    if bundle is None:
        return None
    from ray_app import bundle as bundles

    return bundles.load(bundle).version


def _lineage(dataset: Dataset) -> dict[str, Any]:
    origin = dataset.origin
    return {
        "dataset": dataset.name,
        "dataset_fingerprint": digest(dataset.fingerprint, _bundle_version(dataset.spec.bundle)),
        "parent": origin.name if isinstance(origin, Dataset) else None,
        "parent_fingerprint": origin.fingerprint if isinstance(origin, Dataset) else origin.fingerprint(),
        "spec": dataset.spec.model_dump(mode="json", exclude=set(RUNTIME)),
        "ray_app": __version__,
    }


def _manifest(
    dataset: Dataset, ledger: Ledger, units: Sequence[Unit], rows: int, rejected: int
) -> dict[str, Any]:
    # pyarrow is loaded by now in any case.
    import pyarrow.parquet as pq

    first = min((path for path in ledger.finished().values() if path.parent.name == "data"), default=None)
    schema = pq.read_schema(first) if first is not None else []
    return {
        "schema_version": SCHEMA_VERSION,
        "name": dataset.name,
        "fingerprint": ledger.lineage["dataset_fingerprint"],
        "created": datetime.now(UTC).replace(microsecond=0).isoformat(),
        "labels": dataset.labels,
        "splits": dict(dataset.rule.shares),
        "seed": dataset.rule.seed,
        "rows": rows,
        "rejected": rejected,
        "units": len(units),
        "columns": {field.name: str(field.type) for field in schema},
        "lineage": dict(ledger.lineage),
    }


def _result(ledger: Ledger, manifest: Mapping[str, Any], resumed: int) -> BuildResult:
    return BuildResult(
        name=manifest["name"],
        folder=ledger.folder,
        fingerprint=manifest["fingerprint"],
        rows=manifest["rows"],
        rejected=manifest["rejected"],
        units=manifest["units"],
        resumed=resumed,
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
