"""What `tune/*.yaml` may say: stages to a shared start, a sweep from it, what to combine and export."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ray_app.spec import Combiner, Detector, Encoder, Head, Key, Method, Objective, Spec, Transform, parse

Fraction = Annotated[float, Field(ge=0, le=1)]


class Augment(Spec):
    """Random changes to training pixels, drawn anew each time a row is used."""

    noise: float = Field(default=0.0, ge=0, le=1)
    """Standard deviation of Gaussian noise, in pixel units 0..1."""
    shift: float = Field(default=0.0, ge=0, le=0.5)
    """Largest shift, as a share of the image's side."""
    rotate: float = Field(default=0.0, ge=0, le=180)
    """Largest rotation, in degrees."""
    erase: float = Field(default=0.0, ge=0, lt=1)
    """Share of pixels set to zero."""


class Train(Spec):
    """How weights are trained. A sweep's space names these, nested ones by dots: `augment.noise`."""

    epochs: int = Field(default=10, ge=1, le=10_000)
    batch_size: int = Field(default=64, ge=1)
    lr: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=0.01, ge=0, le=10)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises; it falls by a cosine after them."""
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    augment: Augment = Augment()
    objective: Objective = Method(name="cross_entropy")
    seed: int = Field(default=0, ge=0)
    """Of the order of rows, augmentation and dropout."""


class Stage(Spec):
    """A step that makes weights which all trials start from."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    dataset: str | None = None
    """Path; None: the sweep's dataset."""
    split: str = "train"
    classes: list[int] | None = None
    """Use only rows with these labels; None: all."""
    rows: int | None = Field(default=None, ge=1)
    """Use at most this many rows."""
    train: Train = Train()


class Resources(Spec):
    """What one trial holds, and how many threads torch has in it."""

    cpu: float = Field(default=1.0, gt=0)
    gpu: float = Field(default=0.0, ge=0)


class Scheduler(Spec):
    """Which trials end early."""

    name: Literal["none", "asha"] = "none"
    grace: int = Field(default=1, ge=1)
    """Epochs that every trial has."""
    reduction: int = Field(default=3, ge=2)
    """One in so many goes on at each rung."""


class Sweep(Spec):
    """Trials from one shared start. The first trial is always the defaults in `train`."""

    trials: int = Field(default=8, ge=1, le=100_000)
    search: Literal["random", "optuna"] = "random"
    scheduler: Scheduler = Scheduler()
    metric: Literal["accuracy", "nll"] = "accuracy"
    """On validation rows; what the leaderboard is sorted by."""
    head: Literal["linear_probe", "fresh"] = "linear_probe"
    """The classifier that trials start from: fitted on the start's frozen features, or drawn anew."""
    rows: int | None = Field(default=None, ge=1)
    """Train on at most this many rows."""
    train: Train = Train()
    space: dict[str, dict[str, Any]] = {}
    """Setting → one of {uniform: [a, b]}, {loguniform: [a, b]}, {int: [a, b]}, {choice: [...]}."""
    seed: int = Field(default=0, ge=0)
    """Of the search."""
    concurrent: int | None = Field(default=None, ge=1)
    """Trials at a time; None: as many as fit."""
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _space_names_settings(self) -> "Sweep":
        from ray_app.spec.space import corners

        for key, distribution in self.space.items():
            for value in corners(key, distribution):
                settings(self.train, {key: value})
        return self


class Export(Spec):
    """What becomes the bundle."""

    choose: str = "best"
    """A combiner's name, `single` (the best trial), or `best`: whichever is best on validation rows,
    the cheapest to serve among equals."""
    heads: dict[Key, Head] = {}
    detectors: dict[Key, Detector] = {}
    answer: str = "logits"
    """What predicts: `logits`, or one of the heads."""
    tpr: float = Field(default=0.95, gt=0.5, lt=1)
    """Share of validation rows that a detector's threshold lets through."""
    attack: Transform = Method(name="fgsm")
    """Makes the abnormal rows that a detector with a learned combination learns from."""

    @model_validator(mode="after")
    def _answer_is_known(self) -> "Export":
        if self.answer != "logits" and self.answer not in self.heads:
            raise ValueError(
                f"answer: {self.answer!r} is neither `logits` nor one of heads ({', '.join(self.heads)})"
            )
        return self


class TuneSpec(Spec):
    """A whole run: stages, sweep, combination, export."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    dataset: str
    """Path of the dataset; it has the three splits."""
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str = "test"
    model: Encoder
    stages: list[Stage] = []
    sweep: Sweep = Sweep()
    combine: dict[Key, Combiner] = {}
    export: Export = Export()

    @model_validator(mode="after")
    def _consistent(self) -> "TuneSpec":
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages: names must differ, got {names}")
        if reserved := {"single", "best"} & self.combine.keys():
            raise ValueError(
                f"combine: the name {sorted(reserved)[0]!r} is taken; give the combination another"
            )
        if self.export.choose not in ("best", "single", *self.combine):
            known = ", ".join(("best", "single", *self.combine))
            raise ValueError(f"export.choose: {self.export.choose!r} is none of {known}")
        if len({self.train_split, self.validation_split, self.test_split}) < 3:
            raise ValueError("train_split, validation_split and test_split must be three different splits")
        return self


def settings(defaults: Train, overrides: dict[str, Any]) -> Train:
    """Return the defaults with a trial's values over them.

    Args:
        defaults: What the spec says.
        overrides: Dotted setting → value.

    Raises:
        SpecError: A setting that does not exist, or a value out of its bounds.
    """
    content = defaults.model_dump()
    for key, value in overrides.items():
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return parse(content, Train, where="sweep.space")
