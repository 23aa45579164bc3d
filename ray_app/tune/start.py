"""The shared start: stages, each run once and cached by content; then the classifier of all trials."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.encoders import Encoder, Features
from ray_app.spec.tune import Stage, Train
from ray_app.tune.store import digest, read_state, write_json, write_state
from ray_app.tune.training import Rows, train

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
    model: "Method", stage: Stage, rows: Rows, num_classes: int, before: Start | None, folder: Path, key: str
) -> dict[str, Any]:
    """Train one stage and write its weights; the classifier's are part of them.

    Args:
        model: The spec's encoder.
        stage: What to do.
        rows: The stage's training rows.
        num_classes: Width of the classifier.
        before: The stage before; its weights are continued from.
        folder: Where the stage's files go.
        key: What identifies the result.

    Returns:
        The curve: a list for each thing that the objective logged.
    """
    encoder = build_model(model, num_classes)
    if before is not None:
        encoder.load_state_dict(read_state(before.path))
    curve: list[dict[str, float]] = []
    train(
        encoder,
        objective_for(stage.train, encoder),
        rows,
        stage.train,
        lambda _, logged: curve.append(logged),
    )
    write_state(folder / "weights.safetensors", encoder.state_dict())
    record = {"key": key, "stage": stage.model_dump(mode="json"), "rows": len(rows), "curve": curve}
    write_json(folder / "stage.json", record)
    return record


def objective_for(how: Train, encoder: Encoder) -> Any:
    """Construct the objective; one that needs the width of the features is told."""
    return how.objective.build("objectives", dim=encoder.dim, num_classes=encoder.num_classes)


def stage_key(
    model: "Method", stage: Stage, fingerprint: str, before: Start | None, num_classes: int, cpus: float
) -> str:
    """Return what identifies a stage's result: everything that it depends on.

    The number of threads is part of it: sums in another order are other weights.
    """
    content = stage.model_dump(mode="json", exclude={"name"})
    return digest(model.model_dump(), content, fingerprint, before.key if before else None, num_classes, cpus)


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
