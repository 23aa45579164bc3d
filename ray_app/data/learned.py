"""Scorers and selectors that learn: fitted once, on rows in memory, and loaded by who needs them."""

import heapq
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ray_app import registry
from ray_app.data.arrow import concat, length, take
from ray_app.data.dataset import Dataset, open_dataset
from ray_app.errors import DataError, NotFittedError, SpecError
from ray_app.methods.scorers import FittedScorer, Scorer
from ray_app.methods.selectors import Selector, row_hash
from ray_app.progress import Reporter
from ray_app.spec import Method
from ray_app.spec.dataset import FIT, DatasetSpec, FitFrom, fit_of, score_of
from ray_app.storage import Place

if TYPE_CHECKING:
    from ray_app.methods import Batch

_AT_ONCE = 4096


def learner(step: Method) -> Method:
    """Return a score step's method without the engine's own key."""
    return Method(name=score_of(step)[1], options={k: v for k, v in step.options.items() if k != FIT})


def build_scorer(step: Method) -> Scorer:
    """Construct a scorer, with nothing learned."""
    method = learner(step)
    return cast(Scorer, registry.build("scorers", method.name, method.options))


def build_selector(step: Method) -> Selector:
    """Construct a selector, with nothing learned."""
    options = {key: value for key, value in step.options.items() if key != FIT}
    return cast(Selector, registry.build("selectors", step.name, options))


def load_scorer(step: Method, fitted: Place | None) -> Scorer:
    """Construct a scorer with what it learned for this build.

    Raises:
        NotFittedError: It should have learned, and has not.
    """
    scorer = build_scorer(step)
    if not isinstance(scorer, FittedScorer) or not scorer.learns:
        return scorer
    if fitted is None:
        raise NotFittedError(f"scorers/{step.name}: nothing learned yet; give it `fit: <split or dataset>`")
    return scorer.load_state(_load(fitted / f"{score_of(step)[1]}.safetensors"))


def fit_scorers(dataset: Dataset, fitted: Place, reporter: Reporter) -> None:
    """Let the scorers that learn do so, each once for the whole build, also when it is resumed.

    Raises:
        SpecError: One has nothing to learn from.
        DataError: The rows cannot be read, or are not such as it can learn from.
    """
    for step in dataset.spec.scorers:
        family, name = score_of(step)
        if family != "scorers":
            continue
        scorer, where = build_scorer(step), fitted / f"{name}.safetensors"
        if not isinstance(scorer, FittedScorer) or not scorer.learns or where.exists():
            continue
        source = fit_of(step)
        if source is None:
            raise SpecError(
                f"scorers/{name} has learned nothing; give it `fit: <split>`, or `fit: datasets/x.yaml`"
            )
        with reporter.work(f"fitting scorers/{name}", None) as work:
            batch = rows_to_learn_from(dataset, source)
            work.advance(length(batch), f"{length(batch):,} rows")
            try:
                scorer.fit(batch, batch.get("label"))
            except (ValueError, KeyError) as error:
                raise DataError(
                    f"scorers/{name}: cannot learn from these rows ({error}); see `fit`"
                ) from error
        save(where, scorer.state())


def rows_to_learn_from(dataset: Dataset, source: FitFrom) -> "Batch":
    """Return the rows that a `fit` names: a sample by hash where there are more than it asks for."""
    if source.data is not None:
        teacher = open_dataset(source.data)
    elif dataset.spec.split is not None and isinstance(dataset.origin, Dataset):
        # This dataset is one split of its parent, and learns from another one.
        spec: DatasetSpec = dataset.spec.model_copy(update={"split": source.split, "name": dataset.name})
        return sample(Dataset(spec, dataset.origin), None, source.rows)
    else:
        teacher = dataset
    return sample(teacher, source.split, source.rows)


def sample(dataset: Dataset, split: str | None, rows: int) -> "Batch":
    """Return so many rows, those whose ids have the smallest hashes: the same whatever the order."""
    kept: list[tuple[int, int, Batch]] = []
    count = 0
    for batch in dataset.batches(split, batch_size=_AT_ONCE):
        for row, value in enumerate(row_hash(batch["row_id"]).tolist()):
            count += 1
            if len(kept) < rows:
                heapq.heappush(kept, (-value, count, take(batch, slice(row, row + 1))))
            elif -kept[0][0] > value:
                heapq.heapreplace(kept, (-value, count, take(batch, slice(row, row + 1))))
    return concat([batch for _, _, batch in sorted(kept, key=lambda one: one[1])])


def save(where: Place, state: Mapping[str, np.ndarray]) -> None:
    """Write what a method learned."""
    from safetensors.numpy import save as to_bytes

    where.write_bytes(to_bytes({name: np.ascontiguousarray(value) for name, value in state.items()}))


def _load(where: Place) -> dict[str, Any]:
    from safetensors.numpy import load as from_bytes

    return dict(from_bytes(where.read_bytes()))


def read_by_selectors(spec: DatasetSpec) -> set[str]:
    """Return the columns that a spec's selectors read, the computed ones included."""
    return {column for step in spec.selectors for column in columns_of(build_selector(step))}


# Of a view's fields, the column that each is filled from.
FIELDS = {"features": "embedding", "proba": "logits", "labels": "label"}


def columns_of(selector: Selector) -> list[str]:
    """Return every column that a selector reads."""
    fields = [FIELDS[need] for need in sorted(selector.needs) if need in FIELDS]
    return list(dict.fromkeys([*selector.columns, *fields]))


__all__ = [
    "FIELDS",
    "build_scorer",
    "build_selector",
    "columns_of",
    "fit_scorers",
    "learner",
    "load_scorer",
    "read_by_selectors",
    "rows_to_learn_from",
    "sample",
    "save",
]
