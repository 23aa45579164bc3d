"""How weights are trained: the `train` of a stage and of a sweep."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.spec import Adapter, Method, Spec, method_of, parse
from ray_app.spec import Optimizer as OptimizerMethod

_METHODS = ("adapter", "optimizer", "objective")


class Augment(Spec):
    """Random changes to training images, drawn anew each time a row is used."""

    noise: float = Field(default=0.0, ge=0, le=1)
    """Standard deviation of Gaussian noise, in pixel units 0..1."""
    shift: float = Field(default=0.0, ge=0, le=0.5)
    """Largest shift, as a share of the image's side."""
    rotate: float = Field(default=0.0, ge=0, le=180)
    """Largest rotation, in degrees."""
    erase: float = Field(default=0.0, ge=0, lt=1)
    """Share of pixels set to zero."""
    randaugment: int = Field(default=0, ge=0, le=14)
    """How many of RandAugment's operations each image goes through; 0: none."""
    magnitude: int = Field(default=9, ge=0, le=30)
    """Of RandAugment's operations."""
    mixup: float = Field(default=0.0, ge=0, le=10)
    """Images blended in pairs, their labels with them: alpha of the Beta distribution of shares; 0: none."""
    cutmix: float = Field(default=0.0, ge=0, le=10)
    """A box of one image pasted into another, likewise; with mixup, each batch has one of the two."""

    @property
    def used(self) -> list[str]:
        """The changes that are made, by name."""
        written = self.model_dump(exclude={"magnitude"})
        return [name for name, value in written.items() if value]

    @property
    def mixes(self) -> list[str]:
        """Those that make labels [n, c] of labels [n]."""
        return [name for name in self.used if name in ("mixup", "cutmix")]


class Part(Method):
    """One of the objectives that are minimised together: `{name: early_learning, weight: 0.5}`."""

    weight: float = Field(default=1.0, ge=0)
    """Of its loss in the sum."""

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        if isinstance(value, Method):
            value = value.model_dump()
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "name" in value and "options" not in value:
            options = {key: option for key, option in value.items() if key not in ("name", "weight")}
            kept = {key: option for key, option in value.items() if key in ("name", "weight")}
            return {**kept, "options": options}
        return value


def _many(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _written(parts: tuple[Part, ...]) -> Any:
    # One objective is written as it is usually read: without a list around it.
    written = [
        {"name": part.name, **part.options, **({} if part.weight == 1 else {"weight": part.weight})}
        for part in parts
    ]
    return written[0] if len(written) == 1 else written


def _together(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    names = [part.name for part in parts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is there twice; keep one")
    if not any(registry.load("objectives", name).minimises for name in names):
        raise ValueError(
            f"{' and '.join(names) or 'nothing'} minimises nothing alone; add a loss: "
            f"[cross_entropy{''.join(f', {name}' for name in names)}]"
        )
    return parts


Objectives = Annotated[
    tuple[Annotated[Part, method_of("objectives", "dim", "num_classes", "teacher")], ...],
    BeforeValidator(_many),
    AfterValidator(_together),
    PlainSerializer(_written),
]
"""One objective, or a list of them whose weighted losses are summed."""


class Train(Spec):
    """How weights are trained. A sweep's space names these, nested ones by dots: `augment.noise`."""

    epochs: int = Field(default=10, ge=1, le=10_000)
    batch_size: int = Field(default=64, ge=1)
    """Rows of one forward pass."""
    accumulate: int = Field(default=1, ge=1)
    """Forward passes whose gradients make one step: a step sees accumulate x batch_size rows."""
    lr: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=0.01, ge=0, le=10)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each layer's learning rate is that of the layer after it times this; the classifier's is lr."""
    optimizer: OptimizerMethod = Method(name="adamw")
    """`adamw`, `adam`, `sgd`, or any of timm's by name; with its options: {name: sgd, momentum: 0.9}."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises; it falls by a cosine after them."""
    schedule: Literal["cosine", "constant"] = "cosine"
    cycles: int = Field(default=1, ge=1)
    """How often the cosine falls, each time from lr. A trial's weights at the end of each cycle are what the
    combiner `snapshot` takes."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the gradient; null: any."""
    amp: Literal["off", "bfloat16", "float16"] = "off"
    """Forward passes in low precision; float16, with scaled losses, on a GPU only."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """The weights that are judged and kept are an exponential average over steps with this decay; null: the
    last ones. The decay warms up, so that a short training forgets its start too."""
    patience: int | None = Field(default=None, ge=1)
    """Training ends after so many epochs without a better score on validation rows, and the best epoch's
    weights are kept; null: it runs to its end."""
    augment: Augment = Augment()
    objective: Objectives = (Part(name="cross_entropy"),)
    adapter: Adapter | None = None
    """Which weights train, and how; null: all of them."""
    seed: int = Field(default=0, ge=0)
    """Of the order of rows, augmentation and dropout."""

    @model_validator(mode="after")
    def _cycles_end_with_epochs(self) -> "Train":
        if self.cycles == 1:
            return self
        if self.schedule != "cosine" or self.epochs % self.cycles:
            raise ValueError(
                f"cycles: {self.cycles} need schedule: cosine and epochs that they divide, "
                f"got {self.schedule} and {self.epochs}"
            )
        if self.adapter is not None or self.patience is not None:
            raise ValueError(
                "cycles: leave out adapter and patience; a cycle's weights are plain ones, at its end"
            )
        return self

    @model_validator(mode="after")
    def _labels_can_be_mixed(self) -> "Train":
        if not self.augment.mixes:
            return self
        reads = {part.name: registry.load("objectives", part.name).labels for part in self.objective}
        hard = [name for name, labels in reads.items() if labels == "hard"]
        if hard or "soft" not in reads.values():
            name = (hard or list(reads))[0]
            raise ValueError(
                f"augment.{self.augment.mixes[0]} blends labels, which {name} cannot read; set it to 0 or "
                "use cross_entropy"
            )
        return self

    def check_modality(self, modality: str, model: str) -> None:
        """Refuse augmentation of what is no image.

        Raises:
            ValueError: Names the setting.
        """
        if self.augment.used and modality != "image":
            raise ValueError(
                f"augment.{self.augment.used[0]} changes images, and {model} reads {modality}; leave it out"
            )

    def check_teacher(self, teacher: str | None) -> None:
        """Refuse an objective without the teacher that it learns from, and a teacher that nobody asks.

        Raises:
            ValueError: Says which.
        """
        asked = {
            part.name: option
            for part in self.objective
            if (option := registry.options("objectives", part.name).get("teacher")) is not None
            and "teacher" not in part.options
        }
        needs = [name for name, option in asked.items() if option.default is option.empty]
        if needs and teacher is None:
            raise ValueError(
                f"{needs[0]} learns from a teacher; add `teacher: NAME` of an earlier stage beside `train`"
            )
        if teacher is not None and not asked:
            names = ", ".join(part.name for part in self.objective)
            raise ValueError(f"teacher: {teacher!r} is not asked by {names}; leave it out")


def settings(defaults: Train, overrides: Mapping[str, Any]) -> Train:
    """Return the defaults with a trial's values over them.

    Args:
        defaults: What the spec says.
        overrides: Dotted setting → value; one of several objectives is found by its name:
            `objective.early_learning.strength`.

    Raises:
        SpecError: A setting that does not exist, or a value out of its bounds.
    """
    content = defaults.model_dump()
    # A whole method before its options.
    for key, value in sorted(overrides.items(), key=lambda item: item[0].count(".")):
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            place = _within(place, parent, key)
        if not isinstance(place, dict):
            raise SpecError(f"sweep.space.{key}: {parents[-1]} holds several; name one of them in between")
        place[last] = value
    return parse(content, Train, where="sweep.space")


def _within(place: Any, name: str, key: str) -> Any:
    if isinstance(place, list):
        known = {one["name"]: one for one in place}
        if name not in known:
            raise SpecError(
                f"sweep.space.{key}: no {name!r}{registry.nearest(name, known)} ({', '.join(known)})"
            )
        return known[name]
    if name in _METHODS and isinstance(place.get(name), str):
        # A choice of methods writes them by name alone.
        place[name] = {"name": place[name]}
    if not isinstance(place.get(name, {}), (dict, list)):
        if place[name] is None:
            raise SpecError(f"sweep.space.{key}: there is no {name} in `train`; add it, or choose whole ones")
        raise SpecError(f"sweep.space.{key}: {name} is {place[name]!r} and holds no keys")
    return place.setdefault(name, {})
