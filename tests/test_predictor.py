"""A bundle answers as what was stored in it did, to the bit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ray_app.bundle import Bundle, CalibratedDetector, Component, Contents, load, save
from ray_app.errors import BundleError
from ray_app.predictor import Judge, Predictor, join, load_member, preprocessor
from ray_app.spec import Method
from tests.bundles import digits, member, tiny


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny(tmp_path_factory.mktemp("one") / "b")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny(tmp_path_factory.mktemp("three") / "b", members=3)


def inputs(predictor: Predictor) -> Tensor:
    pixels, _ = digits(16)
    prepared = predictor.preprocess({"image": pixels})
    assert isinstance(prepared, Tensor)
    return prepared


def test_a_stored_network_answers_bit_equal(one: Bundle) -> None:
    predictor = Predictor(load(one.path))
    network = member(seed=0)
    with torch.no_grad():
        told = predictor(inputs(predictor))
        expected = network(inputs(predictor), {"logits"})
    assert torch.equal(told.proba, torch.softmax(expected.logits, 1))
    assert torch.equal(told.features.pooled, expected.pooled)
    assert torch.equal(told.predictions, expected.logits.argmax(1))


def test_loading_twice_answers_bit_equal(three: Bundle) -> None:
    with torch.no_grad():
        first, second = (p(inputs(p)) for p in (Predictor(load(three.path)), Predictor(load(three.path))))
    assert torch.equal(first.proba, second.proba)
    assert first.heads.keys() == second.heads.keys() == {"nearest_mean"}
    assert first.scores.keys() == second.scores.keys() == {"max_softmax"}
    assert all(torch.equal(first.heads[name], second.heads[name]) for name in first.heads)
    assert all(torch.equal(first.scores[name], second.scores[name]) for name in first.scores)


def test_members_logits_are_averaged_and_features_joined(three: Bundle) -> None:
    predictor = Predictor(three)
    with torch.no_grad():
        told = predictor(inputs(predictor))
        members = [member(seed=i)(inputs(predictor), {"logits"}) for i in range(3)]
    mean = torch.stack([features.logits for features in members]).mean(0)
    assert torch.equal(told.proba, torch.softmax(mean, 1))
    assert torch.equal(told.features.pooled, torch.cat([features.pooled for features in members], 1))


def test_members_vote_where_the_bundle_says_so(three: Bundle, tmp_path: Path) -> None:
    voting = three.manifest.model_copy(update={"rule": "votes"})
    files = {file: three.tensors(file) for file in three.manifest.files}
    bundle = save(tmp_path / "b", voting, Contents(tensors=files))
    assert bundle.version != three.version
    predictor = Predictor(load(bundle.path))
    with torch.no_grad():
        told = predictor(inputs(predictor))
        proba = torch.stack(
            [member(seed=i)(inputs(predictor), {"logits"}).logits.softmax(1) for i in range(3)]
        )
    votes = torch.nn.functional.one_hot(proba.argmax(2), proba.shape[2]).sum(0)
    torch.testing.assert_close(told.proba, (votes + proba.mean(0)) / 4)


def test_temperature_divides_the_logits(one: Bundle, tmp_path: Path) -> None:
    warm = one.manifest.model_copy(update={"temperature": 2.5})
    files = {file: one.tensors(file) for file in one.manifest.files}
    predictor = Predictor(save(tmp_path / "b", warm, Contents(tensors=files)))
    with torch.no_grad():
        told = predictor(inputs(predictor))
    assert torch.equal(told.proba, torch.softmax(told.features.logits / 2.5, 1))


def test_a_head_may_be_the_answer(tmp_path: Path) -> None:
    predictor = Predictor(tiny(tmp_path / "b", answer="nearest_mean"))
    with torch.no_grad():
        told = predictor(inputs(predictor), heads=(), detectors=())
    assert torch.equal(told.proba, told.heads["nearest_mean"])
    assert not told.scores


def test_the_members_apart_and_judged_answer_as_together(three: Bundle) -> None:
    together, judge, prepare = Predictor(three), Judge(three), preprocessor(three)
    pixels, _ = digits(16)
    apart = prepare.preprocess({"image": pixels})
    assert torch.equal(apart, inputs(together))
    with torch.no_grad():
        told = together(apart)
        parts = {name: load_member(three, name)(apart, judge.want()) for name in three.manifest.members}
        joined = judge.judge(join(parts))
    assert torch.equal(told.proba, joined.proba)
    assert torch.equal(told.scores["max_softmax"], joined.scores["max_softmax"])


def test_a_preprocessor_holds_no_weights(three: Bundle) -> None:
    assert {parameter.device.type for parameter in preprocessor(three).parameters()} == {"meta"}


def test_nothing_is_computed_that_nobody_reads(one: Bundle) -> None:
    predictor = Predictor(one)
    assert predictor.want(heads=(), detectors=()) == {"logits"}
    assert "layers" not in predictor.want(heads=["nearest_mean"], detectors=())
    assert not any(parameter.requires_grad for parameter in predictor.parameters())
    assert not predictor.training


def test_an_unknown_method_is_refused(one: Bundle, tmp_path: Path) -> None:
    part = CalibratedDetector(method=Method(name="max_softmaxx"), file="members/m0.safetensors")
    wrong = one.manifest.model_copy(update={"detectors": {"d": part}, "heads": {}})
    bundle = save(tmp_path / "b", wrong, Contents(tensors={part.file: one.tensors(part.file)}))
    with pytest.raises(
        BundleError, match=r"unknown method detectors/max_softmaxx; did you mean 'max_softmax'\?"
    ):
        Predictor(bundle)


def test_weights_that_do_not_fit_are_refused(one: Bundle, tmp_path: Path) -> None:
    file = "members/m0.safetensors"
    weights = {name: value for name, value in one.tensors(file).items() if "conv1" not in name}
    bundle = save(
        tmp_path / "b",
        one.manifest.model_copy(update={"heads": {}, "detectors": {}}),
        Contents(tensors={file: weights}),
    )
    with pytest.raises(BundleError, match=r"members/m0.safetensors does not fit encoders/timm") as caught:
        Predictor(bundle)
    assert "\n" not in str(caught.value)


def test_labels_and_logits_must_agree(one: Bundle, tmp_path: Path) -> None:
    wrong = one.manifest.model_copy(update={"labels": ["a", "b"]})
    files = {file: one.tensors(file) for file in one.manifest.files}
    with pytest.raises(BundleError, match="2 labels for 10 logits"):
        Predictor(save(tmp_path / "b", wrong, Contents(tensors=files)))


def test_members_with_different_classes_are_refused(one: Bundle, tmp_path: Path) -> None:
    file, other = "members/m0.safetensors", "members/m1.safetensors"
    options = dict(one.manifest.members["m0"].method.options)
    network = member_with(num_classes=3, options=options)
    wrong = one.manifest.model_copy(
        update={
            "members": {
                **one.manifest.members,
                "m1": Component(
                    method=Method(name="timm", options={**options, "num_classes": 3}), file=other
                ),
            },
            "heads": {},
            "detectors": {},
        }
    )
    contents = Contents(tensors={file: one.tensors(file), other: network})
    with pytest.raises(BundleError, match=r"members have \[3, 10\] classes"):
        Predictor(save(tmp_path / "b", wrong, contents))


def member_with(num_classes: int, options: dict[str, object]) -> dict[str, Tensor]:
    from ray_app import registry

    return dict(registry.build("encoders", "timm", {**options, "num_classes": num_classes}).state_dict())
