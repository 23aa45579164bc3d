"""What `datasets/*.yaml` may say: a source, or a derivation of another dataset."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.spec import Encoder, Method, Spec, Transform, method_of

Source = Annotated[Method, method_of("sources")]

# An option of a step that is the engine's, not the method's.
FIT = "fit"
FIT_ROWS = 20_000
"""Rows that a scorer or selector learns from, where nothing else is said: they are in memory at once."""


class FitFrom(Spec):
    """The rows that a step learns from: `fit: train` names a split, `fit: datasets/x.yaml` a dataset."""

    data: str | None = None
    """A dataset's YAML file, or a built one's folder; None: this dataset."""
    split: str | None = None
    """Which of its splits; None: all rows."""
    rows: int = Field(default=FIT_ROWS, ge=1)
    """At most so many, a sample by hash; a detector with sums learns from all."""

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"data": value} if "/" in value or value.endswith((".yaml", ".yml")) else {"split": value}
        return value


def fit_of(method: Method) -> FitFrom | None:
    """Return what a step learns from; None: it does not say."""
    return FitFrom.model_validate(method.options[FIT]) if FIT in method.options else None


def _known(method: Method, family: str, name: str) -> Method:
    options = {key: value for key, value in method.options.items() if key != FIT}
    try:
        registry.check(family, name, options, supplied=frozenset({"encoder"}))
        cls = registry.load(family, name)
    except SpecError as error:
        raise ValueError(str(error)) from error
    if FIT not in method.options:
        return method
    if not hasattr(cls, "fit"):
        raise ValueError(f"{method.name}: learns from nothing; leave `fit` out")
    try:
        fit_of(method)
    except ValidationError as error:
        raise ValueError(
            f"{method.name}: `fit` names a split, a dataset's path, or {{data, split, rows}},"
            f" got {method.options[FIT]!r}"
        ) from error
    return method


def _score_known(method: Method) -> Method:
    return _known(method, *score_of(method))


def _selector_known(method: Method) -> Method:
    method = _known(method, "selectors", method.name)
    if not hasattr(registry.load("selectors", method.name), "select"):
        raise ValueError(f"{method.name}: chooses among sources, not rows; call it from Python")
    return method


def score_of(method: Method) -> tuple[str, str]:
    """Return family and name of a score step: `detectors/knn`, or a scorer's plain name."""
    family, slash, name = method.name.partition("/")
    return (family, name) if slash and family in ("detectors", "scorers") else ("scorers", method.name)


Score = Annotated[Method, AfterValidator(_score_known)]
Selector = Annotated[Method, AfterValidator(_selector_known)]


LOCAL_ROWS = 4096
"""Up to so many rows `executor: auto` starts no processes."""


class Compute(Spec):
    """What a build may use. It changes how fast rows are made, not what they are."""

    executor: Literal["auto", "local", "ray"] = "auto"
    """In this process, on Ray, or whichever suits the number of rows."""
    actors: int | None = Field(default=None, ge=1)
    """Processes that hold the encoder; None: as many as fit."""
    num_cpus: float = Field(default=1, gt=0)
    """Of each."""
    num_gpus: float = Field(default=0, ge=0)
    """Of each; a fraction shares a GPU."""
    batch_size: int | None = Field(default=None, ge=1)
    """Most rows that the encoder sees at once, halved where they do not fit the device; None: found by a
    short trial on the first rows."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Most tokens at once, padding counted, where rows have lengths; None: found likewise."""
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """What the encoder computes in. auto: bfloat16 where the trial shows that it is faster, and that every
    embedding of it has a cosine of at least 0.999 with float32's. int8: encoders/transformers in 8 bits on a
    CPU, by the `int8` extra; what it costs in accuracy is in the report, and `fit:` learns in float32."""
    compile: bool = False
    """Let torch.compile fuse the encoder, on a GPU; the first batches wait for it."""
    cache: str | None = None
    """Folder on each machine's disk where embeddings are kept by content, encoder and settings, so that no
    row is encoded twice by builds, fits and evaluations that name it; None: the one that RAY_APP_CACHE names,
    else none."""
    price_per_hour: float | None = Field(default=None, ge=0)
    """Of all machines together, for the report's price of a million rows; in a currency of your own."""

    @model_validator(mode="after")
    def _possible(self) -> "Compute":
        if self.dtype == "int8" and self.num_gpus:
            raise ValueError("dtype: int8 is for CPUs; use bfloat16 on a GPU")
        return self

    def is_local(self, rows: int) -> bool:
        """Tell whether to work in this process: actors pay off from some tens of seconds of work."""
        if self.executor != "auto":
            return self.executor == "local"
        return rows <= LOCAL_ROWS and not self.num_gpus and self.actors is None


class DatasetSpec(Spec):
    """Where rows come from, and what is done to them.

    A source reads (`source:`); a derivation takes another dataset's rows (`parent:`) and adds to them.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    source: Source | None = None
    parent: str | None = None
    """Path of the dataset that this one is derived from: a YAML file, or a built dataset's folder."""
    split: str | None = None
    """Which of the parent's splits; None: all."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column → the source's column."""
    labels: list[str] | None = None
    """Class names in the order of their numbers; None: what the source knows."""
    classes: list[int] | None = None
    """Keep only rows with these labels; they keep their numbers."""
    splits: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)
    """Split → share of the rows, drawn by a hash of `row_id`: the same on every machine. With `split_column`
    a list of names."""
    split_key: str | None = None
    """Column by whose hash splits and sample are drawn instead, so that equal values (a speaker, a document)
    are on one side; `file`: the file that a row was read from."""
    split_column: str | None = None
    """Column that holds the name of each row's split; nothing is drawn."""
    sample: float | None = Field(default=None, gt=0, le=1)
    """Share of all rows (or keys) to read, by hash; a larger one contains a smaller one."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the splits and the sample."""
    transforms: list[Transform] = Field(default_factory=list)
    encoder: Encoder | None = None
    """Adds the column `embedding` when the dataset is built."""
    bundle: str | None = None
    """A bundle whose members encode, and whose detectors may score; in place of `encoder`."""
    layers: bool = False
    """Also add `embedding_<layer>` for each of the encoder's layers."""
    logits: bool = False
    """Also add `logits`."""
    scorers: list[Score] = Field(default_factory=list)
    """Each adds `score_<name>`. `detectors/<name>` reads the embeddings: the bundle's, or one that learns
    from the rows that its key `fit` names, as a scorer that learns does."""
    selectors: list[Selector] = Field(default_factory=list)
    """Each chooses among the rows that the one before it left, when all are scored."""
    pool_rows: int = Field(default=100_000, ge=1)
    """A selector that needs all rows in one process gets a sample by hash of so many."""
    keep: list[str] | None = None
    """Columns of the rows to write beside `row_id`, `label` and what is computed; None: all."""
    max_rejected: float = Field(default=0.01, ge=0, le=1)
    """Share of bad rows past which a run fails; each is set aside with its reason."""
    unit_rows: int = Field(default=1024, ge=1)
    """Rows that are read, written and committed as one."""
    compute: Compute = Field(default_factory=Compute)

    @model_validator(mode="before")
    @classmethod
    def _named_splits(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("split_column") and isinstance(value.get("splits"), list):
            return {**value, "splits": dict.fromkeys(value["splits"], 1.0)}
        return value

    @model_validator(mode="after")
    def _whole(self) -> "DatasetSpec":
        if self.split_key is not None and self.split_column is not None:
            raise ValueError("split_key draws splits and split_column reads them; give one of them")
        if self.split_column is not None and not self.splits:
            raise ValueError("split_column: needs `splits`, the names that the column holds: [train, test]")
        if (self.source is None) == (self.parent is None):
            raise ValueError("a dataset has either `source:` or `parent:`; give exactly one")
        if self.source is not None and self.split is not None:
            raise ValueError("split: chooses one of a parent's splits, and a source has none; leave it out")
        if self.splits and self.split_column is None and abs(sum(self.splits.values()) - 1) > 1e-6:
            raise ValueError(f"splits: shares sum to {sum(self.splits.values()):g}; they must sum to 1")
        if self.encoder is not None and self.bundle is not None:
            raise ValueError("`encoder` and `bundle` both encode; give one of them")
        self._check_encoded()
        return self

    def _check_encoded(self) -> None:
        encoded = self.encoder is not None or self.bundle is not None
        if (self.layers or self.logits) and not encoded:
            raise ValueError(
                f"{'layers' if self.layers else 'logits'}: needs `encoder` or `bundle` to compute them"
            )
        for step in self.scorers:
            if score_of(step)[0] != "detectors":
                continue
            if not encoded:
                raise ValueError(f"scorers: {step.name} reads embeddings; give `encoder` or `bundle`")
            if self.bundle is None and FIT not in step.options:
                raise ValueError(
                    f"scorers: {step.name} has learned nothing; give it `fit: <split>`, or give `bundle`"
                )
            if self.bundle is None and (learnt := fit_of(step)) is not None and learnt.data is not None:
                raise ValueError(f"scorers: {step.name} learns from a split of this dataset, not another one")
            if self.bundle is not None and step.options:
                raise ValueError(
                    f"scorers: {step.name} comes from the bundle as it is; leave its options out"
                )
        names = [score_of(step)[1] for step in self.scorers]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"scorers: {sorted(twice)[0]!r} is there twice; each name is a column")
