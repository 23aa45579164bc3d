"""Tiny bundles for tests, made by hand: random small networks, and heads and detectors fitted on digits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from ray_app import registry
from ray_app.bundle import Bundle, CalibratedDetector, Component, Contents, Manifest, Threshold, now, save
from ray_app.methods.encoders import Encoder
from ray_app.predictor import joined
from ray_app.spec import Method

LABELS = [str(digit) for digit in range(10)]
ENCODER = {"model": "test_resnet", "channels": 1, "image_size": 32, "num_classes": 10}
ROWS = 300


def digits(rows: int = ROWS) -> tuple[np.ndarray, torch.Tensor]:
    """Return uint8 [n, 8, 8, 1] images in 0..255 and int64 [n] labels."""
    images, labels = load_digits(return_X_y=True)
    pixels = (images[:rows].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return pixels, torch.from_numpy(labels[:rows].astype(np.int64))


def member(seed: int = 0) -> Encoder:
    """Return a small network with random weights."""
    return registry.build("encoders", "timm", {**ENCODER, "seed": seed}).eval()


def tiny(
    path: Path,
    *,
    members: int = 1,
    heads: Sequence[str] = ("nearest_mean",),
    detectors: Mapping[str, Mapping[str, Any]] | None = None,
    answer: str = "logits",
    name: str = "tiny",
    tpr: float = 0.95,
) -> Bundle:
    """Write a bundle with members m0, m1, …, heads and calibrated detectors fitted on digits."""
    encoders = {f"m{i}": member(seed=i) for i in range(members)}
    pixels, labels = digits()
    encoder = joined(encoders)
    with torch.no_grad():
        # All layers and logits: whatever a head or detector reads.
        features = encoder(encoder.preprocess({"image": pixels}), {"layers", "logits", "inputs"})
    manifest: dict[str, Any] = {"members": {}, "heads": {}, "detectors": {}}
    contents = Contents()

    def put(family: str, key: str, method: Method, module: torch.nn.Module, **more: Any) -> None:
        file = f"{family}/{key}.safetensors"
        contents.tensors[file] = dict(module.state_dict())
        kind = CalibratedDetector if family == "detectors" else Component
        manifest[family][key] = kind(method=method, file=file, **more)

    for key, one in encoders.items():
        carried, _ = one.portable()
        put("members", key, Method(name="timm", options=carried), one)
    for key in heads:
        put("heads", key, Method(name=key), registry.build("heads", key).fit(features, labels))
    for key, options in (detectors if detectors is not None else {"max_softmax": {}}).items():
        detector = registry.build("detectors", key, options, encoder=encoder).fit(features, labels)
        threshold = calibrated(detector.score(features), tpr)
        put("detectors", key, Method(name=key, options=dict(options)), detector, threshold=threshold)
    return save(
        path,
        Manifest(name=name, created=now(), modality="image", labels=LABELS, answer=answer, **manifest),
        contents,
    )


def calibrated(scores: torch.Tensor, tpr: float) -> Threshold:
    """Return the threshold that lets a share `tpr` of these scores through."""
    values = scores.double().numpy()
    return Threshold(
        value=float(np.quantile(values, tpr)),
        tpr=tpr,
        rows=len(values),
        quantiles=np.quantile(values, np.linspace(0, 1, 101)).tolist(),
    )
