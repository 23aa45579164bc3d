"""Build a dataset: stream rows through the stages into Parquet, each once, whatever is killed on the way."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ray_app import __version__
from ray_app.data import chain
from ray_app.data.accounts import Accounts
from ray_app.data.dataset import RUNTIME, Dataset, RejectLimit, open_dataset
from ray_app.data.learned import fit_scorers, learner, read_by_selectors
from ray_app.data.lease import FILE as LEASE
from ray_app.data.lease import leased
from ray_app.data.ledger import MANIFEST, PARTS, PLAN, SCORED, Ledger, footer_of, read_part, write_json
from ray_app.data.payload import Done
from ray_app.data.selected import Each, Here, Part
from ray_app.data.selecting import Chosen, select
from ray_app.data.sources import Source, Unit, digest
from ray_app.data.stages import COMPUTED, Encode, EncodePlan, Reading, Writing, is_heavy
from ray_app.errors import DataError
from ray_app.progress import Reporter, Silent
from ray_app.spec.dataset import DatasetSpec, fit_of, score_of
from ray_app.storage import HIDDEN, Place

SCHEMA_VERSION = 1
# How often the counts of finished units are written down, for a run that resumes.
_NOTE_EVERY_S = 60.0


@dataclass(frozen=True)
class BuildResult:
    """What a build made."""

    name: str
    folder: Place
    fingerprint: str
    rows: int
    rejected: int
    units: int
    resumed: int
    """Units that an earlier run had finished; their input was not read again."""
    chosen: tuple[Chosen, ...] = ()
    """What each selector left."""
    accounts: Accounts | None = field(default=None, compare=False)
    """What the run took; None: there was nothing to do."""

    def record(self) -> dict[str, Any]:
        """Return it for machines."""
        run = self.accounts
        return {
            "name": self.name,
            "folder": str(self.folder),
            "fingerprint": self.fingerprint,
            "rows": self.rows,
            "rejected": self.rejected,
            "units": self.units,
            "resumed": self.resumed,
            "selectors": [asdict(one) for one in self.chosen],
            **({} if run is None else {"run": run.record()}),
        }

    def __str__(self) -> str:
        """Say it in a line."""
        parts = [f"{self.folder}: {self.rows:,} rows in {self.units:,} units"]
        parts += [f"{self.rejected:,} rejected (see {self.folder / 'rejected'})"] if self.rejected else []
        parts += [f"{self.resumed:,} units were there already"] if self.resumed else []
        parts += [f"{one.name} left {one.rows_after:,} of {one.rows_before:,}" for one in self.chosen]
        return ", ".join(parts)


def build(
    what: DatasetSpec | str | Path,
    out: str | Path | Place,
    *,
    reporter: Reporter | None = None,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
    address: str | None = None,
) -> BuildResult:
    """Build a dataset into a folder; run it again after a kill, and it goes on where it was.

    Args:
        what: A spec or a YAML file.
        out: The folder, on a disk or in a store; it can be opened as a dataset, or named as a `parent`, when
            it is finished.
        reporter: Where progress goes.
        overrides: Dotted key → value, set over what a YAML file says.
        force: Delete what another spec or another input built there.
        address: Of the cluster, where it runs on Ray and this process is not connected.

    Raises:
        SpecError: The spec does not say what it may; nothing was written.
        DataError: There is nothing to read, too much was rejected, the folder holds something else, or
            another run builds there.
        RunError: The cluster is too small, or the run failed.
    """
    dataset = open_dataset(what, overrides)
    chain.check(dataset)
    plan = _plan(dataset)
    ledger = Ledger(Place.of(out), _lineage(dataset), SCORED if dataset.spec.selectors else PARTS)
    folder = ledger.folder
    if _holds_other(ledger):
        raise DataError(f"{folder}: holds something else than a dataset; give another --out")
    if (folder / MANIFEST).exists() and not _anew(dataset, ledger, plan, force=force):
        ledger.drop_scored()
        manifest = json.loads((folder / MANIFEST).read_bytes())
        return _result(ledger, manifest, manifest["units"])
    try:
        with leased(folder):
            return _leased(dataset, ledger, plan, reporter or Silent(), address, force=force)
    finally:
        # A folder that holds no plan was made for nothing.
        if folder.is_dir() and not any(True for _ in folder.walk()):
            folder.remove_tree()


def _leased(
    dataset: Dataset,
    ledger: Ledger,
    plan: dict[str, Any],
    reporter: Reporter,
    address: str | None,
    *,
    force: bool,
) -> BuildResult:
    fresh = _anew(dataset, ledger, plan, force=force)
    # To divide the input may mean to unpack all of it; a run that goes on takes what the first one found.
    units = dataset.units() if fresh else ledger.planned()
    if fresh:
        # What would fail on every row fails here, before anything of the dataset is written.
        _try_first(dataset, units)
        _clear(ledger.folder)
        ledger.write_plan(plan, units)
    try:
        return _run(dataset, ledger, units, reporter, address)
    except BaseException:
        if fresh and not any(place.parent.name == ledger.parts for place in ledger.finished().values()):
            # Nothing in it would help the next run.
            _clear(ledger.folder)
        raise


def _try_first(dataset: Dataset, units: Sequence[Unit]) -> None:
    spec = dataset.spec
    encodes = spec.encoder is not None or spec.bundle is not None
    first = next(iter(Reading(dataset, prepares=encodes, scores=False)(units[:1])))
    if first.rejected and not len(first):
        RejectLimit(dataset.name, spec.max_rejected, sum(map(len, units))).add(
            [f"{bad.row_id}: {bad.reason}" for bad in first.rejected]
        )


def _run(
    dataset: Dataset, ledger: Ledger, units: list[Unit], reporter: Reporter, address: str | None
) -> BuildResult:
    spec = dataset.spec
    ledger.clean()
    known = {unit.id for unit in units}
    finished = {name: place for name, place in ledger.finished().items() if name in known}
    limit = RejectLimit(dataset.name, spec.max_rejected, sum(map(len, units)))
    counts: dict[str, Done] = {}
    accounts = Accounts()
    local = spec.compute.is_local(sum(map(len, units)))
    with (
        reporter.work(f"building {dataset.name}", len(units)) as work,
        _cluster(address, local=local) as each,
    ):
        accounts.connect_s = 0.0 if local else time.time() - accounts.begun
        for done in ledger.done(finished):
            counts[done.unit] = done
            limit.add([done.reason] * done.rejected)
        rows = sum(done.rows for done in counts.values())
        work.advance(len(finished), f"{rows:,} rows")
        left = [unit for unit in units if unit.id not in finished]
        noted = time.monotonic()
        for done in _execute(dataset, ledger, left, reporter, address, local=local) if left else []:
            accounts.add(done)
            counts[done.unit] = replace(done, spent={})
            rows += done.rows
            limit.add([done.reason] * done.rejected)
            work.advance(1, f"{rows:,} rows, {accounts.rows_per_s:,.0f} rows/s")
            if time.monotonic() - noted > _NOTE_EVERY_S:
                ledger.note(counts.values())
                noted = time.monotonic()
        if not rows:
            raise DataError(f"{dataset.name}: {dataset.none_left(None)}")
        chosen: list[Chosen] = []
        if spec.selectors:
            ledger.note(counts.values())
            rows, chosen = _select(dataset, ledger, counts, reporter, each)
    accounts.finish(spec.compute)
    manifest = _manifest(dataset, replace(ledger, parts=PARTS), units, rows, limit.count, chosen)
    write_json(ledger.folder / MANIFEST, manifest)
    ledger.drop_scored()
    limit.log()
    return replace(
        _result(ledger, manifest, len(finished)),
        chosen=tuple(chosen),
        accounts=accounts if accounts.units else None,
    )


def _cluster(address: str | None, *, local: bool) -> Any:
    if local:
        return nullcontext(Here())
    # Ray takes seconds to import.
    from ray_app.data import on_ray

    return on_ray.cluster(address)


def _execute(
    dataset: Dataset,
    ledger: Ledger,
    units: Sequence[Unit],
    reporter: Reporter,
    address: str | None,
    *,
    local: bool,
) -> Iterator[Done]:
    spec = dataset.spec
    fitted = ledger.folder / "fitted"
    fit_scorers(dataset, fitted, reporter)
    _fit_detectors(dataset, fitted, reporter, address)
    encodes = spec.encoder is not None or spec.bundle is not None
    models = encodes or any(is_heavy(step) for step in spec.scorers)
    plan = EncodePlan.of(spec, ledger.folder, alone=not local) if models else None
    reading = Reading(dataset, fitted=fitted, prepares=encodes)
    writing = Writing(ledger, spec.keep, sorted(read_by_selectors(spec)))
    if local:
        encode = Encode(plan) if plan is not None else None
        for work in reading(units):
            yield writing(encode(work) if encode is not None else work)
        return
    from ray_app.data import on_ray

    yield from on_ray.run(reading, plan, writing, units, spec.compute)


def _select(
    dataset: Dataset, ledger: Ledger, counts: Mapping[str, Done], reporter: Reporter, each: Each
) -> tuple[int, list[Chosen]]:
    """Let the selectors choose among the scored rows, and write what they left."""
    spec = dataset.spec
    parts = [
        Part.whole(unit, ledger.part(unit, empty=False), counts[unit].rows)
        for unit in sorted(counts)
        if counts[unit].rows
    ]
    chosen: list[Chosen] = []
    for step in spec.selectors:
        with reporter.work(f"selecting by {step.name}", None) as work:
            parts, one = select(
                parts, step, seed=spec.seed, pool_rows=spec.pool_rows, each=each, where=dataset.name
            )
            chosen.append(one)
            work.advance(1, f"{one.rows_after:,} of {one.rows_before:,} rows")
    if not chosen[-1].rows_after:
        raise DataError(f"{dataset.name}: selectors/{chosen[-1].name} left no row; check its bounds")
    final = replace(ledger, parts=PARTS)
    there = final.finished()
    writing = _WriteChosen(final, spec.keep)
    with reporter.work("writing what was chosen", len(parts)) as work:
        left = [part for part in parts if part.unit not in there]
        work.advance(len(parts) - len(left))
        for _ in each.map(writing, left):
            work.advance(1)
    return chosen[-1].rows_after, chosen


@dataclass(frozen=True)
class _WriteChosen:
    ledger: Ledger
    keep: Sequence[str] | None

    def __call__(self, part: Part) -> None:
        # pyarrow is loaded by now in any case.
        import pyarrow as pa

        table = read_part(part.place).filter(pa.array(part.left))
        if self.keep is not None:
            wanted = {"row_id", "label", *self.keep}
            names = [name for name in table.column_names if name in wanted or name.startswith(COMPUTED)]
            table = table.select(names)
        self.ledger.rewrite(part.unit, table, footer_of(part.place))


def _fit_detectors(dataset: Dataset, folder: Place, reporter: Reporter, address: str | None) -> None:
    """Let the detectors that say `fit:` learn, each once for the whole build, also when it is resumed."""
    by_split: dict[str | None, dict[str, Any]] = {}
    for step in dataset.spec.scorers:
        family, name = score_of(step)
        if (
            family == "detectors"
            and dataset.spec.bundle is None
            and not (folder / f"{name}.safetensors").exists()
        ):
            split = source.split if (source := fit_of(step)) is not None else None
            by_split.setdefault(split, {})[name] = ("detectors", learner(step))
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
            (folder / f"{name}.safetensors").write_bytes(save(tensors))


def _holds_other(ledger: Ledger) -> bool:
    """Tell whether the folder is somebody else's."""
    folder = ledger.folder
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; give another --out")
    if (folder / PLAN).exists():
        return False
    # A run that was killed before the plan was whole leaves these at most.
    ours = {"units.parquet", LEASE}
    return any(stat.name not in ours and not stat.name.startswith(HIDDEN) for stat in folder.walk())


def _anew(dataset: Dataset, ledger: Ledger, plan: dict[str, Any], *, force: bool) -> bool:
    """Tell whether the build begins anew; refuse to, where it began differently and nobody forces it."""
    old = ledger.read_plan()
    if old is None:
        return True
    changed = _changed(old, plan, ledger, dataset)
    if changed and not force:
        raise DataError(
            f"{ledger.folder}: was begun differently: {changed};"
            " give another --out, or --force to delete it and build anew"
        )
    return bool(changed)


def _clear(folder: Place) -> None:
    """Delete what a build wrote, but for the lease that is held."""
    for stat in folder.walk():
        if stat.name != LEASE:
            stat.place.remove()


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], ledger: Ledger, dataset: Dataset) -> str:
    if old.get("schema_version") != new["schema_version"]:
        return f"schema {old.get('schema_version')}, and ray-app {__version__} writes {new['schema_version']}"
    before, now = _with_defaults(old.get("spec", {})), new["spec"]
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            return f"`{key}` was {_short(before.get(key))} and is {_short(now.get(key))}"
    if old.get("bundle") != new["bundle"]:
        return f"the bundle was version {old.get('bundle')} and is {new['bundle']}"
    if old.get("input") != new["input"]:
        return f"the input changed: {ledger.changed_units(dataset.units()) or 'its fingerprint is another'}"
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
    dataset: Dataset,
    ledger: Ledger,
    units: Sequence[Unit],
    rows: int,
    rejected: int,
    chosen: Sequence[Chosen],
) -> dict[str, Any]:
    # pyarrow is loaded by now in any case.
    import pyarrow.parquet as pq

    places = (place for place in ledger.finished().values() if place.parent.name == PARTS)
    first = min(places, key=lambda place: place.uri, default=None)
    schema = []
    if first is not None:
        with first.open() as file:
            schema = pq.read_schema(file)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": dataset.name,
        "fingerprint": ledger.lineage["dataset_fingerprint"],
        "created": datetime.now(UTC).replace(microsecond=0).isoformat(),
        "labels": dataset.labels,
        "splits": dict(dataset.rule.shares),
        "split_key": dataset.rule.key,
        "split_column": dataset.rule.column,
        "seed": dataset.rule.seed,
        "rows": rows,
        "rejected": rejected,
        "units": len(units),
        "selectors": [asdict(one) for one in chosen],
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
