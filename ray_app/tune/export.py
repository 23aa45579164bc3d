"""From chosen weights to a bundle: heads and detectors fitted on training, thresholds on validation rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ray_app import bundle as bundles
from ray_app.bundle import Bundle, CalibratedDetector, Component, Contents, Manifest, Threshold
from ray_app.methods._ensemble import Rule
from ray_app.methods.detectors import Combinable, Detector
from ray_app.methods.encoders import Encoder, Features, Want
from ray_app.methods.heads import Head
from ray_app.metrics.calibration import ece, fit_temperature
from ray_app.metrics.classification import accuracy, nll
from ray_app.metrics.detection import calibrate
from ray_app.predictor import joined
from ray_app.spec import Method
from ray_app.spec.tune import Export
from ray_app.tune.start import build_model
from ray_app.tune.store import read_state
from ray_app.tune.training import Rows


@dataclass(frozen=True)
class Splits:
    """The rows that an export needs."""

    training: Rows
    validation: Rows
    test: Rows


@dataclass(frozen=True)
class Origin:
    """What a bundle says of where it came from."""

    name: str
    labels: list[str]
    spec: dict[str, Any]
    lineage: dict[str, Any]


def export(
    model: Method,
    files: Sequence[Path],
    splits: Splits,
    how: Export,
    origin: Origin,
    to: Path,
    rule: Rule = "logits",
) -> Bundle:
    """Fit, calibrate, measure, and write the bundle.

    Args:
        model: The members' architecture.
        files: The members' weights.
        splits: Training rows fit heads and detectors, validation rows set thresholds and the temperature,
            test rows are only reported on.
        how: The spec's `export`.
        origin: Names, spec and lineage.
        to: The bundle's folder.
        rule: How several members answer.
    """
    members = {
        f"member-{index}": _member(model, file, len(origin.labels)) for index, file in enumerate(files)
    }
    encoder = joined(members, rule)
    heads: dict[str, Head] = {name: method.build("heads") for name, method in how.heads.items()}
    detectors: dict[str, Detector] = {
        name: method.build("detectors", encoder=encoder) for name, method in how.detectors.items()
    }
    want = wanted_by(*heads.values(), *detectors.values())
    training = features_of(encoder, splits.training, want)
    fitting = Fitting(encoder, splits.validation, features_of(encoder, splits.validation, want))
    test = features_of(encoder, splits.test, want)
    for head in heads.values():
        head.fit(training, splits.training.labels)
    for detector in detectors.values():
        detector.fit(training, splits.training.labels)
        fitting.combination(detector, how)
    temperature = fit_temperature(_logits(fitting.features), splits.validation.labels.numpy())
    proba = torch.softmax(torch.from_numpy(_logits(test)) / temperature, 1)
    answers = {name: head.predict_proba(test) for name, head in heads.items()}
    contents = Contents()
    manifest = Manifest(
        name=origin.name,
        created=bundles.now(),
        modality=encoder.modality,
        labels=origin.labels,
        members={name: _stored(contents, model.name, name, member) for name, member in members.items()},
        heads={
            name: Component(
                method=how.heads[name],
                file=_learned(contents, f"heads/{name}", head),
                metrics=_quality(answers[name], splits.test),
            )
            for name, head in heads.items()
        },
        detectors={
            name: CalibratedDetector(
                method=how.detectors[name],
                file=_learned(contents, f"detectors/{name}", detector),
                threshold=fitting.threshold(detector, how.tpr),
            )
            for name, detector in detectors.items()
        },
        answer=how.answer,
        temperature=temperature,
        rule=rule,
        metrics={
            f"test_{name}": value
            for name, value in _quality({"logits": proba, **answers}[how.answer], splits.test).items()
        },
        preprocessing=next(iter(members.values())).portable()[0],
        spec=origin.spec,
        lineage=origin.lineage,
    )
    return bundles.save(to, manifest, contents)


@dataclass(frozen=True)
class Fitting:
    """What is learned from validation rows: how partial scores combine, and where abnormal begins."""

    encoder: Encoder
    rows: Rows
    features: Features

    def combination(self, detector: Detector, how: Export) -> None:
        """Let a detector that asks for it learn its combination, on one half of the rows.

        The abnormal rows are an attack on the same half, so no abnormal data are needed.
        """
        if not _learns(detector):
            return
        half = self._half()
        rows = self.rows[half]
        attack = how.attack.build("transforms", model=self.encoder)
        attacked = Rows(attack.perturb(rows.inputs, rows.labels), rows.labels)
        cast(Combinable, detector).fit_combiner(
            self.features[half], features_of(self.encoder, attacked, wanted_by(detector))
        )

    def threshold(self, detector: Detector, tpr: float) -> Threshold:
        """Return the score below which a share `tpr` of normal rows lies, on rows it has not learned from."""
        normal = self.features[~self._half()] if _learns(detector) else self.features
        return Threshold(**calibrate(detector.score(normal).numpy(), tpr))

    def _half(self) -> torch.Tensor:
        return torch.arange(len(self.rows)) % 2 == 0


def features_of(encoder: Encoder, rows: Rows, want: set[Want], batch_size: int = 256) -> Features:
    """Return features of all rows on the CPU, in eval mode and outside of any graph."""
    encoder.eval()
    with torch.inference_mode():
        starts = range(0, len(rows), batch_size)
        parts = [
            encoder(rows[slice(s, s + batch_size)].to(encoder.device).inputs, want).to("cpu") for s in starts
        ]
        joined_parts = Features.concat(parts)
    # Inference tensors may not enter a graph; a copy may.
    return joined_parts.map(torch.clone)


def _member(model: Method, file: Path, num_classes: int) -> Encoder:
    encoder = build_model(model, num_classes)
    encoder.load_state_dict(read_state(file))
    return encoder.requires_grad_(requires_grad=False).eval()


def wanted_by(*parts: Head | Detector) -> set[Want]:
    """Return what a forward pass must give for these; logits always."""
    wanted = {need for part in parts for need in part.needs} | {"logits"}
    if "input_grad" in wanted:
        wanted = wanted - {"input_grad"} | {"inputs"}
    return cast(set[Want], wanted)


def _learns(detector: Detector) -> bool:
    return isinstance(detector, Combinable) and detector.learns_combination


def _logits(features: Features) -> np.ndarray:
    if features.logits is None:
        raise ValueError("export: the encoder gave no logits")
    return features.logits.numpy()


def _quality(proba: torch.Tensor, rows: Rows) -> dict[str, float]:
    values, labels = proba.numpy(), rows.labels.numpy()
    return {"accuracy": accuracy(values, labels), "nll": nll(values, labels), "ece": ece(values, labels)}


def _stored(contents: Contents, method: str, name: str, member: Encoder) -> Component:
    options, assets = member.portable()
    contents.tensors[f"members/{name}.safetensors"] = dict(member.state_dict())
    contents.assets.update({f"{name}/{asset}": content for asset, content in assets.items()})
    return Component(method=Method(name=method, options=options), file=f"members/{name}.safetensors")


def _learned(contents: Contents, name: str, part: Head | Detector) -> str:
    contents.tensors[f"{name}.safetensors"] = dict(part.state_dict())
    return f"{name}.safetensors"
