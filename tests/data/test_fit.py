from typing import Any

import numpy as np
import pytest
import torch

from ray_app import registry
from ray_app.data.dataset import open_dataset
from ray_app.data.fit import fit
from ray_app.errors import DataError, SpecError
from ray_app.methods.encoders import Encoder, Features
from ray_app.spec import Method
from ray_app.spec.dataset import Compute
from tests.data.rows import ENCODER, digits

SPLITS = {"train": 0.7, "test": 0.3}
LEARNERS: dict[str, Any] = {
    "mean": ("heads", Method(name="nearest_mean")),
    "bayes": ("heads", Method(name="naive_bayes")),
    "far": ("detectors", Method(name="mahalanobis", options={"layers": "last"})),
}


def at_once(encoder: Encoder) -> tuple[Features, dict[str, Any]]:
    rows = open_dataset(digits(splits=SPLITS)).read("train")
    with torch.inference_mode():
        features = encoder.eval()(encoder.preprocess(rows))
    labels = torch.from_numpy(rows["label"])
    made = {
        name: registry.build(family, m.name, m.options).fit(features, labels)
        for name, (family, m) in LEARNERS.items()
    }
    return features, made


def check(fitted: dict[str, Any], encoder: Encoder) -> None:
    features, expected = at_once(encoder)
    for name in ("mean", "bayes"):
        torch.testing.assert_close(
            fitted[name].predict_proba(features), expected[name].predict_proba(features), atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(
        fitted["far"].score(features), expected["far"].score(features), atol=1e-5, rtol=1e-4
    )


def build_encoder() -> Encoder:
    method = Method.model_validate(ENCODER)
    return registry.build("encoders", method.name, method.options)


def test_a_pass_over_units_equals_one_fit() -> None:
    encoder = build_encoder()
    dataset = open_dataset(digits(splits=SPLITS, unit_rows=111))
    fitted = fit(dataset, encoder, LEARNERS, split="train", compute=Compute(executor="local", batch_size=50))
    check(fitted, encoder)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_parallel_pass_on_ray_equals_one_fit() -> None:
    dataset = open_dataset(digits(splits=SPLITS, unit_rows=111))
    compute = Compute(executor="ray", actors=2)
    check(
        fit(dataset, Method.model_validate(ENCODER), LEARNERS, split="train", compute=compute),
        build_encoder(),
    )


def test_what_cannot_be_learned_is_refused_before_it_starts() -> None:
    dataset, encoder = open_dataset(digits(splits=SPLITS)), build_encoder()
    with pytest.raises(SpecError, match="heads/logistic: cannot be fitted in one parallel pass"):
        fit(dataset, encoder, {"head": ("heads", Method(name="logistic"))})
    with pytest.raises(SpecError, match="no split 'valid'"):
        fit(dataset, encoder, LEARNERS, split="valid")
    with pytest.raises(DataError, match="no rows"):
        fit(open_dataset(digits(classes=[44])), encoder, LEARNERS)


def test_rows_that_the_encoder_refuses_are_counted() -> None:
    class Picky(torch.nn.Module):
        modality, column, dim, preparation = "image", "image", 2, None

        def preprocess(self, batch: dict[str, np.ndarray]) -> torch.Tensor:
            if (batch["label"] == 3).any():
                raise ValueError("row 0: a three")
            return torch.from_numpy(batch["image"].astype(np.float32))

        def forward(self, inputs: torch.Tensor, want: Any = ()) -> Features:
            return Features(pooled=inputs.flatten(1)[:, 20:22])

    dataset = open_dataset(digits(classes=[2, 3]))
    with pytest.raises(DataError, match=r"rows rejected.*a three"):
        fit(dataset, Picky(), {"mean": LEARNERS["mean"]})  # type: ignore[arg-type]
    lenient = open_dataset(digits(classes=[2, 3], max_rejected=0.5))
    fitted: Any = fit(lenient, Picky(), {"mean": LEARNERS["mean"]})["mean"]  # type: ignore[arg-type]
    assert fitted.counts.tolist() == [0, 0, 177]
