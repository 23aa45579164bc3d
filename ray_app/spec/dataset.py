"""What `datasets/*.yaml` may say: a source, or a derivation of another dataset."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.spec import Encoder, Method, Spec, Transform, method_of

Source = Annotated[Method, method_of("sources")]

# An option of a detector's step that is the engine's, not the detector's.
FIT = "fit"


def _score_known(method: Method) -> Method:
    family, name = score_of(method)
    options = {key: value for key, value in method.options.items() if key != FIT}
    try:
        registry.check(family, name, options, supplied=frozenset({"encoder"}))
    except SpecError as error:
        raise ValueError(str(error)) from error
    if FIT in method.options and (family != "detectors" or not isinstance(method.options[FIT], str)):
        raise ValueError(
            f"{method.name}: `fit` names the split that a detector learns from, got {method.options[FIT]!r}"
        )
    return method


def score_of(method: Method) -> tuple[str, str]:
    """Return family and name of a score step: `detectors/knn`, or a scorer's plain name."""
    family, slash, name = method.name.partition("/")
    return (family, name) if slash and family in ("detectors", "scorers") else ("scorers", method.name)


Score = Annotated[Method, AfterValidator(_score_known)]


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
    batch_size: int = Field(default=256, ge=1)
    """Rows that the encoder sees at once; halved where they do not fit the device."""

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
    """Split → share of the rows, drawn by a hash of `row_id`: the same on every machine."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the splits."""
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
    from the split that its key `fit` names."""
    keep: list[str] | None = None
    """Columns of the rows to write beside `row_id`, `label` and what is computed; None: all."""
    max_rejected: float = Field(default=0.01, ge=0, le=1)
    """Share of bad rows past which a run fails; each is set aside with its reason."""
    unit_rows: int = Field(default=1024, ge=1)
    """Rows that are read, written and committed as one."""
    compute: Compute = Field(default_factory=Compute)

    @model_validator(mode="after")
    def _whole(self) -> "DatasetSpec":
        if (self.source is None) == (self.parent is None):
            raise ValueError("a dataset has either `source:` or `parent:`; give exactly one")
        if self.source is not None and self.split is not None:
            raise ValueError("split: chooses one of a parent's splits, and a source has none; leave it out")
        if self.splits and abs(sum(self.splits.values()) - 1) > 1e-6:
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
            if self.bundle is not None and step.options:
                raise ValueError(
                    f"scorers: {step.name} comes from the bundle as it is; leave its options out"
                )
        names = [score_of(step)[1] for step in self.scorers]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"scorers: {sorted(twice)[0]!r} is there twice; each name is a column")
