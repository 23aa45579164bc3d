"""What `tune/*.yaml` may say: stages to a shared start, a sweep from it, what to combine and export."""

from typing import Any, Literal

from pydantic import Field, model_validator

from ray_app import registry
from ray_app.spec import Combiner, Detector, Encoder, Head, Key, Method, Spec, Transform, rounds
from ray_app.spec.space import check, combinations, conditions, corners
from ray_app.spec.train import Train, settings

_USUAL_TRIALS = 8
# CPUs of a process that waits for others; Ray needs some to place it.
_WATCHING = 0.01


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
    """What one trial holds: each of its processes so much, with as many threads as it has CPUs."""

    cpu: float = Field(default=1.0, gt=0)
    gpu: float = Field(default=0.0, ge=0)
    workers: int = Field(default=1, ge=1, le=4096)
    """Processes that train one model together, through Ray Train; each computes a share of every batch."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several hold the model: each all of it, or each a share of every weight."""

    @property
    def held(self) -> tuple[float, float]:
        """CPUs and GPUs of the process that a trial is: next to nothing, where others train for it."""
        return (self.cpu, self.gpu) if self.workers == 1 else (_WATCHING, 0.0)

    @property
    def all_held(self) -> tuple[float, float]:
        """CPUs and GPUs of all processes of a trial."""
        if self.workers == 1:
            return self.held
        return self.workers * self.cpu + _WATCHING, self.workers * self.gpu

    @model_validator(mode="after")
    def _whole_devices(self) -> "Resources":
        if self.workers > 1 and self.gpu != int(self.gpu):
            raise ValueError(
                f"gpu: each of {self.workers} workers needs a GPU of its own, got {self.gpu:g}; give 1, or 0"
            )
        return self


class Scheduler(Spec):
    """Which trials end early, or go on from others."""

    name: Literal["none", "asha", "median", "hyperband", "pbt"] = "none"
    """asha: at each rung one in `reduction` goes on. median: who is below the median of the others' running
    means ends. hyperband: brackets that halve their trials sooner or later. pbt: a population whose worst go
    on from the best, with other settings."""
    grace: int = Field(default=1, ge=1)
    """Epochs that every trial has."""
    reduction: int = Field(default=3, ge=2)
    """One in so many goes on at each rung."""
    interval: int = Field(default=1, ge=1)
    """pbt: epochs between two looks at the population."""
    quantile: float = Field(default=0.25, gt=0, le=0.5)
    """pbt: share of the population that goes on from an equally large share, the best."""
    resample: float = Field(default=0.25, ge=0, le=1)
    """pbt: chance of each setting to be drawn anew instead of moved."""

    @property
    def in_rounds(self) -> bool:
        """Whether trials are trained in rounds, each up to an epoch, with a decision after it."""
        return self.name in ("hyperband", "pbt")


class Budget(Spec):
    """After how much no further trial is begun; those that run end as they would."""

    hours: float | None = Field(default=None, gt=0)
    """Of one command, by the clock."""
    epochs: int | None = Field(default=None, ge=1)
    """Of all trials together, an earlier command's too."""


class Sweep(Spec):
    """Trials from one shared start. The first trial is always the defaults in `train`."""

    trials: int | None = Field(default=None, ge=1, le=100_000)
    """Configurations; None: all of a grid and the defaults, else 8."""
    seeds: int = Field(default=1, ge=1, le=100)
    """Trials of each configuration, with `train.seed` and the seeds after it."""
    search: Literal["random", "optuna", "grid"] = "random"
    """By chance, by Optuna's TPE, or all combinations of a space of choices."""
    scheduler: Scheduler = Scheduler()
    budget: Budget = Budget()
    keep: int | None = Field(default=None, ge=1)
    """Weights are kept of so many of the best trials; None: of all. Combiners see those that are kept."""
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
    """Setting → {uniform: [a, b]}, {loguniform: [a, b]}, {int: [a, b]}, {choice: [...]} or {grid: [...]};
    with `when: {other: value}` it is set only where the other has that value, or one of a list."""
    seed: int = Field(default=0, ge=0)
    """Of the search."""
    concurrent: int | None = Field(default=None, ge=1)
    """Trials at a time; None: as many as fit."""
    save_every_s: float = Field(default=20.0, ge=0)
    """Seconds between two writes of a trial's whole state, from which it goes on after a kill; shorter trials
    begin anew."""
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _space_names_settings(self) -> "Sweep":
        for train in self.trains():
            train.check_teacher(self.teacher)
        return self

    @model_validator(mode="after")
    def _can_be_searched(self) -> "Sweep":
        if self.search == "grid" and not self.space:
            raise ValueError("search: grid needs a space; give `space`, or use search: random")
        if self.search == "grid":
            list(combinations(self.space))
        if self.seeds > 1 and "seed" in self.space:
            raise ValueError("seeds: `seed` is in the space already; drop one of the two")
        return self

    @model_validator(mode="after")
    def _can_go_in_rounds(self) -> "Sweep":
        if self.scheduler.in_rounds:
            rounds.check(self)
        return self

    @model_validator(mode="after")
    def _workers_are_seen(self) -> "Sweep":
        if self.resources.workers > 1 and self.scheduler.name in ("asha", "median"):
            raise ValueError(
                f"scheduler: {self.scheduler.name} stops trials between epochs, and hears of none where "
                "several workers train one; use hyperband, which trains in rounds, or none"
            )
        return self

    @property
    def sign(self) -> float:
        """What the metric is multiplied with to be higher for better."""
        return -1.0 if self.metric == "nll" else 1.0

    @property
    def configurations(self) -> int:
        """How many different settings are tried, the defaults among them."""
        if self.scheduler.name == "hyperband":
            return self.trials or sum(bracket[0].trials for bracket in self.brackets())
        if self.search != "grid":
            return self.trials or _USUAL_TRIALS
        every = 1 + sum(1 for _ in combinations(self.space))
        return min(every, self.trials or every)

    @property
    def runs(self) -> int:
        """How many trials there are."""
        return self.configurations * self.seeds

    def trains(self) -> list[Train]:
        """Return the defaults, and the settings at the ends of each range of the space.

        Raises:
            ValueError: The space cannot be searched.
        """
        every = {key: corners(key, distribution) for key, distribution in self.space.items()}
        check(self.space)
        at_ends = [
            settings(self.train, {**self._enabling(key), key: value})
            for key, values in every.items()
            for value in values
        ]
        return [self.train, *at_ends]

    def brackets(self) -> list[list[rounds.Rung]]:
        """Return HyperBand's brackets as the paper has them, the one that stops earliest first."""
        return rounds.brackets(self.train.epochs, self.scheduler.reduction, self.scheduler.grace)

    def _enabling(self, key: str) -> dict[str, Any]:
        """Values of other keys with which a key is set at all."""
        found: dict[str, Any] = {}
        for other, values in conditions(self.space, key).items():
            found |= {**self._enabling(other), other: values[0]}
        return found


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


class Report(Spec):
    """What a run's report measures; it changes nothing of the run."""

    plane: bool = True
    """The loss on a plane through the start, two candidates and a soup: some 120 passes over 500 rows."""


class TuneSpec(Spec):
    """A whole run: stages, sweep, combination, export, report."""

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
    report: Report = Report()

    @model_validator(mode="after")
    def _consistent(self) -> "TuneSpec":
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages: names must differ, got {names}")
        if "fresh" in names:
            raise ValueError("stages: `fresh` means drawn weights; give that stage another name")
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
