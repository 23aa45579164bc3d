"""The shared start: stages, each run once and cached by content; then the classifier of all trials."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.adapters import Adapter
from ray_app.methods.encoders import Encoder, Features
from ray_app.methods.objectives import Composed, Objective
from ray_app.spec.train import Train
from ray_app.spec.tune import Stage
from ray_app.tune.state import Saved
from ray_app.tune.store import digest, read_state, write_json, write_state
from ray_app.tune.training import Epoch, Judge, Rows, train

if TYPE_CHECKING:
    from ray_app.methods import StateDict
    from ray_app.spec import Method


@dataclass(frozen=True)
class Start:
    """Weights that trials begin with, and what identifies them."""

    path: Path
    key: str


def build_model(method: "Method", num_classes: int) -> Encoder:
    """Construct a spec's encoder with a classifier for so many classes.

    Raises:
        SpecError: The encoder cannot have one.
    """
    known = registry.options("encoders", method.name)
    given = dict(method.options)
    if given.get("num_classes") in (None, 0) and "num_classes" in known:
        given["num_classes"] = num_classes
    encoder: Encoder = registry.build("encoders", method.name, given)
    if encoder.num_classes != num_classes:
        raise SpecError(
            f"model: encoders/{method.name} has {encoder.num_classes} classes, the dataset {num_classes}; "
            "leave num_classes out or choose an encoder with a classifier"
        )
    return encoder


def run_stage(
    model: "Method",
    stage: Stage,
    rows: Rows,
    num_classes: int,
    before: Start | None,
    teacher: Start | None,
    folder: Path,
    key: str,
) -> dict[str, Any]:
    """Train one stage and write its weights; the classifier's are part of them.

    Args:
        model: The spec's encoder.
        stage: What to do.
        rows: The stage's training rows.
        num_classes: Width of the classifier.
        before: The stage whose weights are continued from; None: drawn ones.
        teacher: The stage that the objective asks, if it asks one.
        folder: Where the stage's files go.
        key: What identifies the result.

    Returns:
        The curve: what the objective logged in each epoch.
    """
    encoder = _load(model, num_classes, before)
    curve: list[dict[str, float]] = []
    fine_tune(
        encoder,
        rows,
        stage.train,
        lambda epoch: curve.append(dict(epoch.logged)),
        teacher=_load(model, num_classes, teacher) if teacher is not None else None,
    )
    write_state(folder / "weights.safetensors", encoder.state_dict())
    record = {"key": key, "stage": stage.model_dump(mode="json"), "rows": len(rows), "curve": curve}
    write_json(folder / "stage.json", record)
    return record


def fine_tune(
    encoder: Encoder,
    rows: Rows,
    how: Train,
    on_epoch: Callable[[Epoch], None] | None = None,
    *,
    judge: Judge | None = None,
    teacher: Encoder | None = None,
    saved: Saved | None = None,
    until: int | None = None,
) -> None:
    """Train an encoder in place with the objectives and the adapter that the settings name.

    On the last epoch, when `on_epoch` is called, and afterwards, the adapter is merged: the encoder is of its
    plain architecture.

    Args:
        encoder: What trains.
        rows: What to train on.
        how: The settings.
        on_epoch: See train.
        judge: See train.
        teacher: A model of its own, for objectives that learn from one; it is frozen.
        saved: See train.
        until: See train.
    """
    adapter: Adapter | None = None
    if how.adapter is not None:
        made: Adapter = how.adapter.build("adapters")
        made.attach(encoder)
        adapter = made

    def ended(epoch: Epoch) -> None:
        if epoch.last and adapter is not None and adapter.merges:
            adapter.merge(encoder)
        if on_epoch is not None:
            on_epoch(epoch)

    train(
        encoder,
        objective_for(how, encoder, teacher),
        rows,
        how,
        ended,
        judge=judge,
        adapter=adapter,
        saved=saved,
        until=until,
    )


def objective_for(how: Train, encoder: Encoder, teacher: Encoder | None = None) -> Objective:
    """Construct what is minimised: one objective, or several as one.

    Args:
        how: Names them.
        encoder: What will train; an objective that needs the width of its features or its classes is told.
        teacher: For one that learns from a teacher.
    """
    supplied = {"dim": encoder.dim, "num_classes": encoder.num_classes}
    taught = {} if teacher is None else {"teacher": teacher}
    parts = {part.name: part.build("objectives", **supplied, **taught) for part in how.objective}
    if len(parts) == 1 and how.objective[0].weight == 1:
        only: Objective = parts[how.objective[0].name]
        return only
    return Composed(parts=parts, weights={part.name: part.weight for part in how.objective})


def _load(model: "Method", num_classes: int, start: Start | None) -> Encoder:
    encoder = build_model(model, num_classes)
    if start is not None:
        encoder.load_state_dict(read_state(start.path))
    return encoder


def stage_key(
    model: "Method",
    stage: Stage,
    fingerprint: str,
    before: Start | None,
    teacher: Start | None,
    num_classes: int,
    cpus: float,
) -> str:
    """Return what identifies a stage's result: everything that it depends on.

    The number of threads is part of it: sums in another order are other weights.
    """
    content = stage.model_dump(mode="json", exclude={"name", "start", "teacher"})
    others = [one.key if one else None for one in (before, teacher)]
    return digest(model.model_dump(), content, fingerprint, *others, num_classes, cpus)


def linear_probe(encoder: Encoder, rows: Rows) -> "StateDict":
    """Return the encoder's weights with a classifier fitted on its frozen features.

    Fine-tuning from a fitted classifier disturbs the features less than from a drawn one (A. Kumar et al.,
    ICLR 2022, https://arxiv.org/abs/2202.10054), and ingredients of a soup must start from the same one.

    Raises:
        SpecError: The encoder's classifier is not one linear layer.
    """
    layer = encoder.classifier
    if layer is None:
        raise SpecError("sweep.head: linear_probe needs a classifier of one linear layer; use `head: fresh`")
    probe = registry.build("heads", "logistic", {"C": 1.0})
    probe.fit(pooled_of(encoder, rows), rows.labels)
    with torch.no_grad():
        # A class that the rows lack keeps its drawn weights.
        known = len(probe.weight)
        layer.weight[:known].copy_(probe.weight)
        layer.bias[:known].copy_(probe.bias)
    return encoder.state_dict()


@torch.inference_mode()
def pooled_of(encoder: Encoder, rows: Rows, batch_size: int = 512) -> Features:
    """Return pooled features of all rows, on the CPU."""
    encoder.eval()
    starts = range(0, len(rows), batch_size)
    parts = [encoder(rows[slice(s, s + batch_size)].to(encoder.device).inputs).to("cpu") for s in starts]
    return Features.concat(parts)
