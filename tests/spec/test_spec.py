"""What a YAML file may say: numbers, places in errors, nearest keys, settings over it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.errors import SpecError
from ray_app.spec import Method, Spec, load, parse, plain, read_yaml, with_overrides
from ray_app.spec.dataset import DatasetSpec
from ray_app.spec.serve import check_file
from ray_app.spec.suite import SuiteSpec
from ray_app.spec.tune import TuneSpec

SHIPPED: list[tuple[Path, type[Spec]]] = [
    *((path, DatasetSpec) for path in sorted(Path("datasets").glob("*.yaml"))),
    *((path, SuiteSpec) for path in sorted(Path("datasets/suites").glob("*.yaml"))),
    *((path, TuneSpec) for path in sorted(Path("tune").glob("*.yaml"))),
]


def refused(content: Any, model: type[Spec] = TuneSpec) -> str:
    with pytest.raises(SpecError) as caught:
        parse(content, model, "file.yaml")
    message = str(caught.value)
    assert message.startswith("file.yaml: ")
    assert "\n" not in message
    return message.removeprefix("file.yaml: ")


def sweep(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "dataset": "d.yaml", "model": {"name": "timm", "model": "test_resnet"}, **changes}


@pytest.mark.parametrize(("path", "model"), SHIPPED, ids=lambda value: getattr(value, "name", None))
def test_every_shipped_file_round_trips(path: Path, model: type[Spec]) -> None:
    spec = load(path, model)
    assert parse(spec.model_dump(mode="json"), model, "again") == spec
    # Through YAML text too: that is how a spec lies in a bundle's lineage or a run's folder.
    assert parse(plain(yaml.safe_dump(spec.model_dump(mode="json")), "text"), model, "text") == spec


@pytest.mark.parametrize("path", sorted(Path("serve").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_serve_file_is_valid(path: Path) -> None:
    assert check_file(path, {}).applications


def test_datasets_and_sweeps_are_shipped() -> None:
    assert {model for _, model in SHIPPED} == {DatasetSpec, SuiteSpec, TuneSpec}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-5", 1e-5),
        ("-2E+3", -2000.0),
        ("1.5e3", 1500.0),
        (".5e1", 5.0),
        ("1_0e2", 1000.0),
        ("+3e2", 300.0),
    ],
)
def test_scientific_notation_is_a_number(written: str, value: float) -> None:
    assert plain(f"lr: {written}", "text") == {"lr": value}


@pytest.mark.parametrize("written", ["e5", "1e", "x1e5", "'1e5'", "1e5m"])
def test_other_text_stays_text(written: str) -> None:
    assert isinstance(plain(written, "text"), str)


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(derandomize=True, deadline=None)
def test_any_float_as_python_writes_it_is_read_back(value: float) -> None:
    assert plain(repr(value), "text") == value


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"swep": {}}, "swep: unknown key; did you mean 'sweep'? (keys: name, dataset, "),
        ({"Name": "x"}, "Name: unknown key; did you mean 'name'? (keys: name, dataset, "),
        ({"sweep": {"trails": 3}}, "sweep.trails: unknown key; did you mean 'trials'"),
        (
            {"sweep": {"train": {"augment": {"nois": 0.1}}}},
            "sweep.train.augment.nois: unknown key; did you mean 'noise'? (keys: noise, shift, ",
        ),
        (
            {"stages": [{"name": "a"}, {"name": "b", "train": {"epoch": 1}}]},
            "stages.1.train.epoch: unknown key; did you mean 'epochs'?",
        ),
        (
            {"export": {"detectors": {"mine": {"name": "knn", "kk": 1}}}},
            "export.detectors.mine: detectors/knn has no option 'kk'; did you mean 'k'? (options: k",
        ),
        (
            {"export": {"detectors": {"Mine": {"name": "mahalanobs"}}}},
            "export.detectors.Mine: unknown method detectors/mahalanobs; did you mean 'mahalanobis'?",
        ),
        ({"sweep": {"trials": "many"}}, "sweep.trials: input should be a valid integer, unable to parse"),
        ({"sweep": [1]}, "sweep: expected keys and values, got [1]"),
        ({"model": None}, "model: expected keys and values, got None"),
        (
            {"sweep": {"space": {"lrr": {"uniform": [0, 1]}}}},
            "sweep.space: lrr: unknown key; did you mean 'lr'?",
        ),
        ({"sweep": {"space": {"lr": {"uniform": [1, 100]}}}}, "sweep.space: lr: input should be less than"),
        ({"name": "A b"}, "name: string should match pattern"),
        ({"combine": {"../out": "uniform_soup"}}, "combine.../out: string should match pattern"),
        (
            {"export": {"heads": {"a/b": "logistic"}}},
            "export.heads.a/b: string should match pattern",
        ),
        (
            {"export": {"answer": "logistic"}},
            "export: answer: 'logistic' is neither `logits` nor one of heads",
        ),
    ],
)
def test_an_error_names_the_place_what_was_given_and_the_nearest(
    content: dict[str, Any], expected: str
) -> None:
    assert refused(sweep(**content)).startswith(expected)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"role": "ind", "datset": "d"},
            "datasets.clean.datset: unknown key; did you mean 'dataset'? (keys: role, dataset, ",
        ),
        ({"role": "odd", "dataset": "d"}, "datasets.clean.role: input should be 'ind', 'near_ood'"),
        ({"role": "ind"}, "datasets.clean.dataset: is missing; add it"),
        (
            {"role": "ind", "dataset": "d", "transforms": [{"name": "invert", "by": 2}]},
            "datasets.clean.transforms.0: transforms/invert has no option 'by'",
        ),
    ],
)
def test_keys_below_a_name_are_checked_too(entry: dict[str, Any], expected: str) -> None:
    assert refused({"name": "s", "datasets": {"clean": entry}}, SuiteSpec).startswith(expected)


def test_a_missing_key_and_a_content_that_is_no_mapping() -> None:
    assert refused({"name": "x"}) == "dataset: is missing; add it"
    assert refused(["x"]) == "expected keys and values, got ['x']"
    assert refused(None) == "expected keys and values, got None"
    assert refused(sweep(**{"1": 2})).startswith("1: unknown key")


def test_long_values_are_cut() -> None:
    assert len(refused(sweep(name="A" * 1000))) < 200


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1", "line 1: not valid YAML: "),
        (b"a: 1\nb: 2\na: 3\n", "line 3: not valid YAML: the key 'a' is there twice; keep one"),
        (b"x: {k: 1, k: 2}", "the key 'k' is there twice"),
        (b"a: !!python/object/apply:os.system [ls]", "not valid YAML: "),
        (b"a: \x00", "not valid YAML: "),
        (b"\xff\xfe\xfa", "cannot be read as a YAML file"),
        (b"? [1, 2]\n: 3", "not valid YAML: "),
    ],
)
def test_what_is_not_yaml_is_refused_in_a_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_merge_keys_may_stand_twice_and_be_overridden() -> None:
    text = "a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: *a\n  <<: *b\n  x: 3\n"
    assert plain(text, "text")["c"] == {"x": 3, "y": 2}


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nothing\.yaml: no such file in .*; give a path relative to it"):
        load(tmp_path / "nothing.yaml", TuneSpec)
    with pytest.raises(SpecError, match="cannot be read as a YAML file"):
        load(tmp_path, TuneSpec)


def test_settings_go_over_what_a_file_says() -> None:
    changed = load("tune/digits.yaml", TuneSpec, {"sweep.trials": 3, "sweep.train.augment.noise": 0.5})
    assert (changed.sweep.trials, changed.sweep.train.augment.noise) == (3, 0.5)
    assert changed.sweep.train.augment.shift == load("tune/digits.yaml", TuneSpec).sweep.train.augment.shift


def test_settings_make_the_keys_on_the_way_but_go_through_nothing_else() -> None:
    assert with_overrides({}, {"a.b.c": 1}, "x") == {"a": {"b": {"c": 1}}}
    with pytest.raises(SpecError, match=r"x: cannot set 'a\.b': a holds no keys"):
        with_overrides({"a": [1]}, {"a.b": 1}, "x")
    with pytest.raises(SpecError, match=r"cannot set 'name\.x': name holds no keys"):
        load("tune/digits.yaml", TuneSpec, {"name.x": 1})


def test_a_method_is_a_name_or_a_name_with_options_beside_it() -> None:
    assert Method.model_validate("knn") == Method(name="knn")
    flat = Method.model_validate({"name": "knn", "k": 3})
    assert flat == Method(name="knn", options={"k": 3})
    assert flat.model_dump() == {"name": "knn", "k": 3}
    assert Method.model_validate({"name": "knn", "options": {"k": 3}}) == flat


def test_specs_do_not_change_after_the_check() -> None:
    spec = load("tune/digits.yaml", TuneSpec)
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"  # type: ignore[misc]
