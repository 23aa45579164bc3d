"""Whether a dataset's steps fit one another: each finds the columns that it reads. Nothing is read for it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from ray_app import registry
from ray_app.data.dataset import Dataset
from ray_app.data.learned import FIELDS, build_scorer, build_selector, columns_of
from ray_app.errors import SpecError
from ray_app.methods.scorers import FittedScorer
from ray_app.spec.dataset import FIT, DatasetSpec, score_of

if TYPE_CHECKING:
    from ray_app.methods.encoders import Encoder
    from ray_app.spec import Method

_MADE_BY = {"embedding": "`encoder` or `bundle`", "logits": "`logits: true`"}


def check(dataset: Dataset) -> list[str]:
    """Return the columns that a build will have, `row_id` first.

    Raises:
        SpecError: A step reads a column that neither the rows nor a step before it has, or options that a
            method refuses; nothing has started yet.
    """
    spec, columns = dataset.spec, _transformed(dataset)
    encoded = spec.encoder is not None or spec.bundle is not None
    if encoded:
        method = _method(spec)
        if spec.compute.dtype == "int8":
            # It imports torch, which few specs need before they start.
            from ray_app.data import int8

            int8.check(method.name)
        column = _column(method)
        _need(columns, [column], dataset.name, f"the encoder, which reads {column},")
    for step in spec.scorers:
        family, name = score_of(step)
        if family == "scorers":
            scorer = build_scorer(step)
            if FIT in step.options and isinstance(scorer, FittedScorer) and not scorer.learns:
                raise SpecError(f"scorers/{name}: with these options it learns from nothing; leave `fit` out")
            _need(columns, scorer.columns, dataset.name, f"scorers/{name}")
    made = [*(["embedding"] if encoded else []), *(["logits"] if spec.logits else [])]
    columns += [*made, *(f"score_{score_of(step)[1]}" for step in spec.scorers)]
    for step in spec.selectors:
        selector = build_selector(step)
        if unknown := sorted(selector.needs - {"row_ids", "score", "texts", "costs", "content", *FIELDS}):
            raise SpecError(
                f"selectors/{step.name}: needs {', '.join(unknown)} of the rows, which no build has;"
                " call it from Python"
            )
        _need(columns, columns_of(selector), dataset.name, f"selectors/{step.name}")
    if spec.keep is not None:
        _need(columns, spec.keep, dataset.name, "keep")
    return columns


def _transformed(dataset: Dataset) -> list[str]:
    columns = (
        _transformed(dataset.origin) if isinstance(dataset.origin, Dataset) else list(dataset.origin.columns)
    )
    theirs = dataset.spec.columns
    if theirs:
        kept = [c for c in columns if c not in (*theirs, *theirs.values()) or theirs.get(c) == c]
        missing = [column for column in theirs.values() if column not in columns]
        _need(columns, missing, dataset.name, "columns")
        columns = [*kept, *(ours for ours in theirs if ours not in kept)]
    columns = ["row_id", *(column for column in columns if column != "row_id")]
    needed = [dataset.spec.split_key, dataset.spec.split_column]
    named = [name for name in needed if name is not None and name != "file"]
    _need(columns, named, dataset.name, "splits")
    if dataset.spec.classes is not None:
        _need(columns, ["label"], dataset.name, "classes")
    for name, transform in dataset.transforms:
        _need(columns, transform.columns, dataset.name, f"transforms/{name}")
        columns += [column for column in transform.adds if column not in columns]
    return columns


def _method(spec: DatasetSpec) -> "Method":
    """The encoder, or a bundle's first member's."""
    if spec.bundle is not None:
        from ray_app import bundle as bundles

        return next(iter(bundles.load(spec.bundle).manifest.members.values())).method
    return cast("Method", spec.encoder)


def _column(method: "Method") -> str:
    """What an encoder reads: its modality's name."""
    return str(cast("type[Encoder]", registry.load("encoders", method.name)).modality)


def _need(columns: Iterable[str], read: Iterable[str], where: str, who: str) -> None:
    for column in read:
        if column not in columns:
            made = _MADE_BY.get(column)
            mend = f"it is made by {made}" if made else "map it with `columns:`"
            raise SpecError(
                f"{where}: {who} has no column {column!r} to read{registry.nearest(column, list(columns))}"
                f" (columns: {', '.join(columns)}); {mend}"
            )


__all__ = ["check"]
