"""What `train` may say: what goes together, what does not, and how a trial's settings find their place."""

from typing import Any

import pytest

from ray_app.errors import SpecError
from ray_app.spec import parse
from ray_app.spec.train import Train, settings
from ray_app.spec.tune import TuneSpec


def train(**content: Any) -> Train:
    return parse(content, Train, where="x")


def run(
    sweep: dict[str, Any] | None = None, stages: list[dict[str, Any]] | None = None, **more: Any
) -> TuneSpec:
    content = {
        "name": "x",
        "dataset": "d.yaml",
        "model": {"name": "timm", "model": "test_resnet"},
        "sweep": sweep or {},
        "stages": stages or [],
        **more,
    }
    return parse(content, TuneSpec, where="x")


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "cross_entropy", "label_smoothing": 0.1},
        {"name": "cross_entropy", "weight": 0.5},
        [{"name": "early_learning", "strength": 1.0}, {"name": "gradient_noise", "eta": 0.3}],
        [{"name": "cross_entropy", "weight": 2.0}, {"name": "in_batch_contrastive", "temperature": 0.1}],
    ],
)
def test_objectives_are_written_as_they_were_read(objective: Any) -> None:
    first = train(objective=objective)
    assert first.model_dump(mode="json")["objective"] == objective
    assert parse(first.model_dump(mode="json"), Train, where="x") == first


def test_names_alone_do() -> None:
    assert train(objective="cross_entropy") == Train()
    assert [part.name for part in train(objective=["cross_entropy", "gradient_noise"]).objective] == [
        "cross_entropy",
        "gradient_noise",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"objective": "cross_entropi"},
            "unknown method objectives/cross_entropi; did you mean 'cross_entropy'",
        ),
        (
            {"objective": ["cross_entropy", {"name": "gradient_noise", "etta": 1}]},
            "objective.1: objectives/gradient_noise has no option 'etta'; did you mean 'eta'",
        ),
        (
            {"objective": "gradient_noise"},
            r"minimises nothing alone; add a loss: \[cross_entropy, gradient_noise\]",
        ),
        ({"objective": []}, "nothing minimises nothing alone"),
        ({"objective": ["cross_entropy", "cross_entropy"]}, "cross_entropy is there twice; keep one"),
        (
            {"objective": {"name": "cross_entropy", "weight": -1}},
            "weight: input should be greater than or equal",
        ),
        (
            {"objective": "early_learning", "augment": {"mixup": 0.2}},
            r"augment\.mixup blends labels, which early_learning cannot read; set it to 0 or use cross_ent",
        ),
        (
            {"objective": "in_batch_contrastive", "augment": {"cutmix": 1}},
            r"augment\.cutmix blends labels, which in_batch_contrastive cannot read",
        ),
        ({"adapter": {"name": "bitfitt"}}, "unknown method adapters/bitfitt; did you mean 'bitfit'"),
        ({"ema": 1.0}, "ema: input should be less than 1"),
        ({"accumulate": 0}, "accumulate: input should be greater than or equal to 1"),
        ({"amp": "fp16"}, "amp: input should be 'off', 'bfloat16' or 'float16'"),
        ({"optimizer": "adamv"}, "optimizer: unknown optimizer 'adamv'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(content: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        train(**content)
    assert "\n" not in str(caught.value)


def test_mixing_goes_with_objectives_that_read_no_labels_beside_one_that_can() -> None:
    assert train(objective=["cross_entropy", "gradient_noise"], augment={"mixup": 0.2}).augment.mixes == [
        "mixup"
    ]


def test_a_trials_settings_reach_into_objectives_adapters_and_optimisers() -> None:
    several = train(
        objective=[{"name": "early_learning", "weight": 0.5}, "gradient_noise"],
        optimizer={"name": "sgd", "momentum": 0.9},
        adapter={"name": "sparse", "sparsity": 0.5},
    )
    found = settings(
        several,
        {
            "objective.early_learning.strength": 7.0,
            "objective.gradient_noise.eta": 1.0,
            "optimizer.momentum": 0.5,
            "adapter.sparsity": 0.25,
            "augment.mixup": 0.0,
        },
    )
    assert found.model_dump(mode="json")["objective"] == [
        {"name": "early_learning", "strength": 7.0, "weight": 0.5},
        {"name": "gradient_noise", "eta": 1.0},
    ]
    assert found.optimizer.options == {"momentum": 0.5}
    assert found.adapter is not None
    assert found.adapter.options["sparsity"] == 0.25
    assert settings(Train(), {"objective.label_smoothing": 0.1}).objective[0].options == {
        "label_smoothing": 0.1
    }


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("objective.cross_entropi.label_smoothing", "no 'cross_entropi'; did you mean 'cross_entropy'"),
        ("objective.label_smoothing", "objective holds several; name one of them in between"),
        ("adapter.r", "there is no adapter in `train`; add it, or choose whole ones"),
        ("lr.high", "lr is 0.001 and holds no keys"),
    ],
)
def test_settings_that_lead_nowhere(key: str, said: str) -> None:
    several = train(objective=["cross_entropy", "gradient_noise"])
    with pytest.raises(SpecError, match=said):
        settings(several, {key: 1.0})


TEXT = {"name": "transformers", "model": "m"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"model": TEXT, "sweep": {"train": {"augment": {"mixup": 0.2}}}},
            r"sweep\.train\.augment\.mixup changes images, and transformers reads text; leave it out",
        ),
        (
            {"model": TEXT, "sweep": {"space": {"augment.noise": {"uniform": [0, 0.1]}}}},
            r"sweep\.train\.augment\.noise changes images",
        ),
        (
            {"model": TEXT, "stages": [{"name": "a", "train": {"augment": {"shift": 0.1}}}]},
            r"stages\.a\.train\.augment\.shift changes images",
        ),
        (
            {"stages": [{"name": "a", "train": {"patience": 2}}]},
            "patience needs validation rows, which a stage",
        ),
        (
            {"stages": [{"name": "a", "start": "b"}, {"name": "b"}]},
            r"stages\.a\.start: 'b' is no earlier stage",
        ),
        (
            {"stages": [{"name": "a"}, {"name": "b", "start": "aa"}]},
            r"did you mean 'a'\? \(there: fresh, a\)",
        ),
        ({"stages": [{"name": "fresh"}]}, "`fresh` means drawn weights"),
        (
            {"stages": [{"name": "a", "train": {"objective": "pseudo_label"}}]},
            "pseudo_label learns from a teacher; add `teacher: NAME` of an earlier stage",
        ),
        (
            {"stages": [{"name": "a"}, {"name": "b", "teacher": "a"}]},
            "teacher: 'a' is not asked by cross_entropy",
        ),
        (
            {
                "stages": [{"name": "a"}],
                "sweep": {
                    "space": {"objective": {"choice": [{"name": "cross_entropy"}, {"name": "pseudo_label"}]}}
                },
            },
            "pseudo_label learns from a teacher",
        ),
        (
            {"sweep": {"teacher": "a", "train": {"objective": "pseudo_label"}}},
            r"sweep\.teacher: 'a' is no earlier",
        ),
    ],
)
def test_a_run_whose_parts_do_not_fit_is_refused(content: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        run(**content)
    assert "\n" not in str(caught.value)


def test_a_chain_of_stages_with_a_teacher_is_read() -> None:
    spec = run(
        stages=[
            {"name": "base"},
            {"name": "labeller", "rows": 50},
            {
                "name": "pseudo",
                "start": "base",
                "teacher": "labeller",
                "train": {"objective": "pseudo_label"},
            },
        ]
    )
    assert spec.stages[2].teacher == "labeller"
    assert parse(spec.model_dump(mode="json"), TuneSpec, where="x") == spec
