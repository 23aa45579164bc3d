"""A Serve config file is read strictly: what Ray Serve overlooks is refused here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from ray_app.errors import SpecError
from ray_app.spec import parse
from ray_app.spec.serve import (
    IMPORT_PATH,
    LEAST_TOKEN,
    Application,
    DeploymentOverride,
    HTTPOptions,
    ServeFile,
    ServeSpec,
    check_file,
    is_loopback,
    read_token,
)

ROOT = Path(__file__).parents[2]
TOKEN = "t" * LEAST_TOKEN


def content() -> dict[str, Any]:
    return {
        "http_options": {"host": "127.0.0.1"},
        "applications": [{"import_path": IMPORT_PATH, "args": {"bundle": "b"}}],
    }


def written(tmp_path: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    file = content()
    change(file)
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(file))
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "serve").glob("*.yaml")), ids=lambda path: path.name)
def test_every_file_in_serve_is_sound(path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    file = check_file(path, {})
    assert is_loopback(file.http_options.host)
    ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))


UNKNOWN: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ("http_option", lambda c: c.update(http_option={})),
    ("prot", lambda c: c["http_options"].update(prot=1)),
    ("routeprefix", lambda c: c["applications"][0].update(routeprefix="/x")),
    ("polcy", lambda c: c["applications"][0]["args"].update(polcy={})),
    ("actoin", lambda c: c["applications"][0]["args"].update(policy={"actoin": "flag"})),
    ("bytes", lambda c: c["applications"][0]["args"].update(limits={"bytes": 1})),
    ("num_replica", lambda c: c["applications"][0].update(deployments=[{"name": "model", "num_replica": 2}])),
    (
        "min_replica",
        lambda c: c["applications"][0].update(
            deployments=[{"name": "model", "autoscaling_config": {"min_replica": 2}}]
        ),
    ),
    (
        "num_cpu",
        lambda c: c["applications"][0].update(
            deployments=[{"name": "model", "ray_actor_options": {"num_cpu": 2}}]
        ),
    ),
]


@pytest.mark.parametrize(("key", "change"), UNKNOWN, ids=[key for key, _ in UNKNOWN])
def test_an_unknown_key_is_refused_at_every_level(
    tmp_path: Path, key: str, change: Callable[[dict[str, Any]], None]
) -> None:
    path = written(tmp_path, change)
    with pytest.raises(SpecError, match=rf"{key}: unknown key") as caught:
        check_file(path, {})
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


WRONG: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    (r"http_options.host: is missing", lambda c: c["http_options"].pop("host")),
    (r"http_options: is missing", lambda c: c.pop("http_options")),
    (r"applications.*at least 1", lambda c: c.update(applications=[])),
    (r"import_path", lambda c: c["applications"][0].update(import_path="os:system")),
    (r"bundle: is missing", lambda c: c["applications"][0]["args"].pop("bundle")),
    (r"placement.*'together' or 'spread'", lambda c: c["applications"][0]["args"].update(placement="apart")),
    (
        r"min_replicas 3 exceeds max_replicas 2",
        lambda c: c["applications"][0]["args"].update(autoscaling={"min_replicas": 3}),
    ),
    (
        r"look_back_period_s 2 must exceed metrics_interval_s 10",
        lambda c: c["applications"][0]["args"].update(
            autoscaling={"metrics_interval_s": 10, "look_back_period_s": 2}
        ),
    ),
    (r"limits.body_bytes.*got 0", lambda c: c["applications"][0]["args"].update(limits={"body_bytes": 0})),
    (r"two have the name 'default'", lambda c: c["applications"].append(c["applications"][0])),
    (
        r"deployments.0.name",
        lambda c: c["applications"][0].update(deployments=[{"name": "modle", "num_replicas": 2}]),
    ),
]


@pytest.mark.parametrize(("said", "change"), WRONG, ids=[said for said, _ in WRONG])
def test_a_wrong_value_costs_one_line(
    tmp_path: Path, said: str, change: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        check_file(written(tmp_path, change), {})
    assert "\n" not in str(caught.value)


def test_our_keys_are_rays_keys() -> None:
    """A key that Ray does not know would be overlooked by it."""
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import (
        DeploymentSchema,
        HTTPOptionsSchema,
        ServeApplicationSchema,
        ServeDeploySchema,
    )

    pairs: list[tuple[type[BaseModel], type[BaseModel]]] = [
        (ServeFile, ServeDeploySchema),
        (HTTPOptions, HTTPOptionsSchema),
        (Application, ServeApplicationSchema),
        (DeploymentOverride, DeploymentSchema),
    ]
    for ours, rays in pairs:
        assert set(ours.model_fields) <= set(rays.model_fields), ours
    (autoscaling, _) = get_args(DeploymentOverride.model_fields["autoscaling_config"].annotation)
    assert set(autoscaling.model_fields) <= set(AutoscalingConfig.model_fields)


EVERYWHERE = "0.0.0.0"  # noqa: S104 - never bound to


@pytest.mark.parametrize("host", [EVERYWHERE, "10.0.0.5", "::", "example.org", "", "127.0.0.1.evil.example"])
def test_a_host_that_others_reach_needs_a_token(tmp_path: Path, host: str) -> None:
    path = written(tmp_path, lambda c: c["http_options"].update(host=host))
    with pytest.raises(SpecError, match=r"there is no token; set RAY_APP_TOKEN"):
        check_file(path, {})
    assert check_file(path, {"RAY_APP_TOKEN": TOKEN}).http_options.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9", "[::1]", "::ffff:127.0.0.1"])
def test_loopback_needs_none(host: str) -> None:
    assert is_loopback(host)
    assert read_token(ServeSpec(bundle="b"), host, {}) is None


def test_a_token_comes_from_the_variable_then_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{'f' * LEAST_TOKEN}\n")
    spec = ServeSpec(bundle="b", token_file=str(file), token_env="MY_TOKEN")  # noqa: S106
    assert read_token(spec, EVERYWHERE, {}) == "f" * LEAST_TOKEN
    assert read_token(spec, EVERYWHERE, {"MY_TOKEN": TOKEN}) == TOKEN
    assert read_token(spec, None, {"MY_TOKEN": ""}) == "f" * LEAST_TOKEN


@pytest.mark.parametrize("token", ["short", "with a space in the middle", "ünïcödé-ünïcödé-ünïcödé"])
def test_a_weak_token_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(SpecError, match=r"RAY_APP_TOKEN: holds \d+ characters") as caught:
        read_token(ServeSpec(bundle="b"), "127.0.0.1", {"RAY_APP_TOKEN": token})
    assert token not in str(caught.value)


def test_an_unreadable_or_empty_token_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read_token(ServeSpec(bundle="b", token_file=str(tmp_path / "none")), None, {})
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SpecError, match="is empty"):
        read_token(ServeSpec(bundle="b", token_file=str(tmp_path / "empty")), None, {})


def test_a_misspelt_setting_names_the_right_one() -> None:
    with pytest.raises(SpecError, match=r"placment: unknown key; did you mean 'placement'\?"):
        parse({"bundle": "b", "placment": "spread"}, ServeSpec, where="args")
