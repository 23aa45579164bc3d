"""A sweep that takes seconds."""

from typing import Any

from ray_app.spec import parse
from ray_app.spec.tune import TuneSpec

TINY: dict[str, Any] = {
    "name": "tiny",
    "dataset": "datasets/digits.yaml",
    "model": {"name": "timm", "model": "test_resnet", "channels": 1, "image_size": 16},
    "stages": [
        {
            "name": "pretrain",
            "rows": 300,
            "train": {
                "epochs": 1,
                "batch_size": 100,
                "lr": 3e-3,
                "objective": {"name": "in_batch_contrastive"},
            },
        }
    ],
    "sweep": {
        "trials": 3,
        "concurrent": 2,
        "rows": 200,
        "train": {"epochs": 2, "batch_size": 50, "lr": 3e-3},
        "space": {"lr": {"loguniform": [1e-3, 1e-2]}, "augment.noise": {"uniform": [0.0, 0.2]}},
    },
    "combine": {
        "greedy_soup": {"name": "greedy_soup"},
        "logit_ensemble": {"name": "logit_ensemble", "top": 2},
    },
    "export": {
        "choose": "greedy_soup",
        "heads": {"nearest_mean": {"name": "nearest_mean"}},
        "detectors": {
            "mahalanobis": {"name": "mahalanobis", "combine": "logistic"},
            "max_softmax": {"name": "max_softmax"},
        },
    },
    # It takes as long as the sweep; tests/tune/test_geometry.py has a small one.
    "report": {"plane": False},
}


def tiny(**changes: Any) -> TuneSpec:
    """Return the spec; a mapping among the changes is laid over what is there, one level deep."""
    content = dict(TINY)
    for key, value in changes.items():
        content[key] = {**TINY.get(key, {}), **value} if isinstance(value, dict) and key in TINY else value
    return parse(content, TuneSpec, where="tiny")
