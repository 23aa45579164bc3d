"""What `datasets/*.yaml` may say: a source, or a derivation of another dataset."""

from typing import Annotated

from pydantic import Field, model_validator

from ray_app.spec import Encoder, Method, Spec, Transform, method_of

Source = Annotated[Method, method_of("sources")]


class DatasetSpec(Spec):
    """Where rows come from, and what is done to them.

    A source reads (`source:`); a derivation takes another dataset's rows (`parent:`) and adds to them.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    source: Source | None = None
    parent: str | None = None
    """Path of the dataset that this one is derived from."""
    split: str | None = None
    """Which of the parent's splits; None: all."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column → the source's column."""
    labels: list[str] | None = None
    """Class names in the order of their numbers; None: what the source knows."""
    classes: list[int] | None = None
    """Keep only rows with these labels; they keep their numbers."""
    splits: dict[str, float] = Field(default_factory=dict)
    """Split → share of the rows, drawn by a hash of `row_id`: the same on every machine."""
    seed: int = Field(default=0, ge=0)
    """Of the splits."""
    transforms: list[Transform] = Field(default_factory=list)
    encoder: Encoder | None = None
    max_rejected: float = Field(default=0.01, ge=0, le=1)
    """Share of bad rows past which a run fails; each is set aside with its reason."""
    unit_rows: int = Field(default=1024, ge=1)
    """Rows that are read, written and committed as one."""

    @model_validator(mode="after")
    def _one_origin(self) -> "DatasetSpec":
        if (self.source is None) == (self.parent is None):
            raise ValueError("a dataset has either `source:` or `parent:`; give exactly one")
        if self.splits and abs(sum(self.splits.values()) - 1) > 1e-6:
            raise ValueError(f"splits: shares sum to {sum(self.splits.values()):g}; they must sum to 1")
        return self
