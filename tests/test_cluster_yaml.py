"""cluster.yaml is what Ray's own schema takes, and keeps its promises: pinned, closed, without a secret."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

PATH = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(PATH.read_text(encoding="utf-8"))


def check(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_rays_schema_takes_it(config: dict[str, Any]) -> None:
    check(config)


@pytest.mark.parametrize(
    "breaks",
    [
        lambda c: c.update(idle_timout_minutes=5),
        lambda c: c["available_node_types"]["gpu_worker"].update(max_worker=1),
        lambda c: c.update(head_node_type="haed"),
        lambda c: c["available_node_types"]["cpu_worker"].update(resources={"CPU": "many"}),
    ],
    ids=["top level", "node type", "head", "resources"],
)
def test_the_check_can_fail(config: dict[str, Any], breaks: Any) -> None:
    breaks(config)
    with pytest.raises(Exception, match=r"."):
        check(config)


def test_the_image_has_the_ray_that_runs_here(config: dict[str, Any]) -> None:
    assert config["docker"]["image"].startswith(f"rayproject/ray:{ray.__version__}-py311")


def test_nothing_of_rays_defaults_is_left_where_they_are_unsafe(config: dict[str, Any]) -> None:
    prepared = check(config)
    commands = {key: " ".join(prepared[key]) for key in prepared if key.endswith("commands")}
    assert "--dashboard-host=127.0.0.1" in commands["head_start_ray_commands"]
    assert "0.0.0.0" not in " ".join(commands.values())  # noqa: S104
    assert "dev0" not in " ".join(commands.values())
    assert "RAY_AUTH_MODE=token" in " ".join(prepared["docker"]["run_options"])
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        assert prepared[key] == config[key]


def test_it_shrinks_to_the_head_and_grows_within_bounds(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    workers = {name: node for name, node in types.items() if name != config["head_node_type"]}
    assert set(workers) == {"cpu_worker", "gpu_worker"}
    assert all(node["min_workers"] == 0 < node["max_workers"] for node in workers.values())
    assert config["max_workers"] == sum(node["max_workers"] for node in workers.values())
    assert types["gpu_worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert types["head"]["resources"] == {"CPU": 0}
    assert 0 < config["idle_timeout_minutes"] <= 15


def test_there_is_no_secret_in_it() -> None:
    text = PATH.read_text(encoding="utf-8")
    assert not re.search(r"AKIA|aws_secret|password|[0-9a-f]{32}", text, re.IGNORECASE)
