"""What `tune/*.yaml` may say: stages to a shared start, a sweep from it, what to combine and export."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ray_app import registry
from ray_app.spec import Combiner, Detector, Encoder, Head, Key, Method, Spec, Transform
from ray_app.spec.train import Train, settings

Fraction = Annotated[float, Field(ge=0, le=1)]


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
    start: str | None = None
    """The earlier stage whose weights are continued from, or `fresh` for drawn ones; None: the one before."""
    teacher: str | None = None
    """The earlier stage whose weights an objective that learns from a teacher asks."""
    train: Train = Train()

    @model_validator(mode="after")
    def _can_train(self) -> "Stage":
        if self.train.patience is not None:
            raise ValueError("train.patience needs validation rows, which a stage has not; set epochs")
        self.train.check_teacher(self.teacher)
        return self


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
    teacher: str | None = None
    """The stage whose weights an objective that learns from a teacher asks."""
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
        for train in self.trains():
            train.check_teacher(self.teacher)
        return self

    def trains(self) -> list[Train]:
        """Return the defaults, and the settings at the ends of each range of the space."""
        from ray_app.spec.space import corners

        at_ends = [
            settings(self.train, {key: value})
            for key, distribution in self.space.items()
            for value in corners(key, distribution)
        ]
        return [self.train, *at_ends]


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
        for place, stage in enumerate(self.stages):
            _check_earlier(f"stages.{stage.name}.start", stage.start, ["fresh", *names[:place]])
            _check_earlier(f"stages.{stage.name}.teacher", stage.teacher, names[:place])
        _check_earlier("sweep.teacher", self.sweep.teacher, names)
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

    @model_validator(mode="after")
    def _trains_fit_the_model(self) -> "TuneSpec":
        modality = getattr(registry.load("encoders", self.model.name), "modality", "image")
        for stage in self.stages:
            _check_train(f"stages.{stage.name}.train", stage.train, modality, self.model.name)
        for train in self.sweep.trains():
            _check_train("sweep.train", train, modality, self.model.name)
        return self


def _check_earlier(place: str, name: str | None, known: list[str]) -> None:
    if name is not None and name not in known:
        listed = ", ".join(known) or "none"
        raise ValueError(
            f"{place}: {name!r} is no earlier stage{registry.nearest(name, known)} (there: {listed})"
        )


def _check_train(place: str, train: Train, modality: str, model: str) -> None:
    try:
        train.check_modality(modality, model)
    except ValueError as error:
        raise ValueError(f"{place}.{error}") from error
    if train.adapter is not None and not registry.load("adapters", train.adapter.name).merges:
        raise ValueError(
            f"{place}.adapter: {train.adapter.name} cannot be merged into plain weights, which candidates "
            "and stages are made of; use one that can (lora, bitfit, svfit)"
        )
