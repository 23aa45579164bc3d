"""What `serve/*.yaml` may say: Ray Serve's own config file, read strictly, with our settings in `args`.

Ray Serve accepts unknown keys at every level of its config file, and listens on all interfaces unless told
otherwise. Here an unknown key is an error, and the host has to be written.
"""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ray_app.errors import SpecError
from ray_app.spec import Spec, load

IMPORT_PATH = "ray_app.serve.app:build"
"""What builds the application from `args`."""
LEAST_TOKEN = 16
"""Characters of a bearer token; a shorter one can be guessed."""


class Resources(Spec):
    """What one replica asks of the cluster; fractions share a CPU or a GPU."""

    num_cpus: float = Field(default=0.5, ge=0)
    num_gpus: float = Field(default=0, ge=0)
    memory: int | None = Field(default=None, ge=1)
    """Bytes."""
    resources: dict[str, float] = {}
    """Custom resources of the cluster's nodes."""


class Autoscaling(Spec):
    """How many replicas there are."""

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=2, ge=1)
    target_ongoing_requests: float = Field(default=8, gt=0)
    """Requests in work a replica, above which more replicas are started."""
    upscale_delay_s: float = Field(default=3, ge=0)
    downscale_delay_s: float = Field(default=60, ge=0)
    look_back_period_s: float = Field(default=30, gt=0)
    metrics_interval_s: float | None = Field(default=None, gt=0)
    """Seconds between measurements; None: Ray's own, which is slow to notice load."""

    @model_validator(mode="after")
    def _in_order(self) -> "Autoscaling":
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas {self.min_replicas} exceeds max_replicas {self.max_replicas}; lower it"
            )
        if self.metrics_interval_s is not None and self.metrics_interval_s >= self.look_back_period_s:
            raise ValueError(
                f"look_back_period_s {self.look_back_period_s:g} must exceed metrics_interval_s "
                f"{self.metrics_interval_s:g}; without a measurement in it a busy deployment scales to zero"
            )
        return self


class Batching(Spec):
    """How requests share a forward pass."""

    max_rows: int = Field(default=32, ge=1)
    """Rows of one forward pass; a larger request is divided."""
    wait_ms: float = Field(default=2, ge=0)
    """How long the first request of a batch waits for company; while a pass runs, requests gather anyway."""


class Limits(Spec):
    """What is refused."""

    body_bytes: int = Field(default=16 * 2**20, ge=1)
    """Of a request; counted while it arrives."""
    instances: int = Field(default=256, ge=1)
    """Of a request."""
    image_pixels: int = Field(default=16_000_000, ge=1)
    """Width times height of an image, before it is decoded."""
    queued_requests: int = Field(default=128, ge=1)
    """Waiting for a replica; more are told to come back later."""
    retry_after_s: int = Field(default=1, ge=1)
    """What those are told."""
    timeout_s: float = Field(default=30, gt=0)
    """Until a request that has no answer is given up."""


class Policy(Spec):
    """What an abnormal input gets."""

    action: Literal["flag", "abstain", "reject"] = "flag"
    """flag: an answer with a mark. abstain: no label. reject: an error, if all of a request is abnormal."""
    detectors: list[str] | None = Field(default=None, min_length=1)
    """Which ones decide; None: all that have a threshold."""
    decide: Literal["any", "majority", "all"] = "any"
    """How many of them must find it abnormal."""
    without_detectors: Literal["answer", "abstain"] | None = None
    """What happens while a degraded ensemble has no scores; None: answer under `flag`, else abstain."""


class DriftWatch(Spec):
    """How served scores are compared with those that thresholds were calibrated on."""

    window: int = Field(default=1000, ge=10)
    """Latest scores of each detector, in each replica of the ingress."""
    least: int = Field(default=100, ge=10)
    """Fewer are not compared."""
    psi: float = Field(default=0.25, gt=0)
    """Population stability index from which on they have drifted, if it is beyond chance too."""
    p_value: float = Field(default=0.001, gt=0, lt=1)
    """Beyond chance: a Kolmogorov-Smirnov test's p-value is below this."""

    @model_validator(mode="after")
    def _can_be_compared(self) -> "DriftWatch":
        if self.least > self.window:
            raise ValueError(f"least {self.least} exceeds window {self.window}, so nothing is ever compared")
        return self


class Spread(Spec):
    """For `placement: spread`: each member in a deployment of its own."""

    deadline_s: float = Field(default=2, gt=0)
    """How long the other members wait for a late one."""
    rest_s: float = Field(default=5, ge=0)
    """How long a member that was late is left out before it is asked again."""
    members: dict[str, Resources] = {}
    """Member → its resources, where they differ from `resources`."""


class Ingress(Spec):
    """The deployment that speaks HTTP. It loads no model."""

    replicas: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=0.2, ge=0)


class ServeSpec(Spec):
    """A bundle, and how it is served: `args` of the config file."""

    bundle: str = Field(min_length=1)
    """Path of its folder, which all nodes must see."""
    placement: Literal["together", "spread"] = "together"
    """together: all members in each replica. spread: a deployment for each member, in parallel."""
    policy: Policy = Policy()
    limits: Limits = Limits()
    drift: DriftWatch = DriftWatch()
    batching: Batching = Batching()
    autoscaling: Autoscaling = Autoscaling()
    resources: Resources = Resources()
    """Of a replica of the model (and of each member, where they are spread)."""
    ingress: Ingress = Ingress()
    spread: Spread = Spread()
    token_env: str = Field(default="RAY_APP_TOKEN", pattern=r"^[A-Z_][A-Z0-9_]*$")
    """Environment variable with the bearer token."""
    token_file: str | None = None
    """A file with it, used where the variable is not set."""
    keys_file: str | None = None
    """A file of keys that `ray-app keys` keeps, which open beside the token; all nodes must see it."""


class HTTPOptions(Spec):
    """Where Ray Serve listens."""

    host: str
    port: int = Field(default=8000, ge=1, le=65535)
    root_path: str = ""
    request_timeout_s: float | None = Field(default=None, gt=0)
    keep_alive_timeout_s: int = Field(default=90, ge=0)
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None


class GrpcOptions(Spec):
    """Ray Serve's gRPC proxy."""

    port: int = Field(default=9000, ge=1, le=65535)
    grpc_servicer_functions: list[str] = []
    request_timeout_s: float | None = Field(default=None, gt=0)


class Logging(Spec):
    """Ray Serve's log files."""

    encoding: Literal["TEXT", "JSON"] = "TEXT"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    logs_dir: str | None = None
    enable_access_log: bool = True


class ActorOptions(Spec):
    """What Ray gives to a replica."""

    num_cpus: float | None = Field(default=None, ge=0)
    num_gpus: float | None = Field(default=None, ge=0)
    memory: float | None = Field(default=None, gt=0)
    resources: dict[str, float] = {}
    accelerator_type: str | None = None
    runtime_env: dict[str, Any] = {}


class DeploymentOverride(Spec):
    """Settings of one deployment that win over those of `args`: `ingress`, `model` or `member-<name>`."""

    name: str = Field(pattern=r"^(ingress|model|member-[a-z0-9][a-z0-9_-]*)$")
    num_replicas: int | None = Field(default=None, ge=1)
    max_ongoing_requests: int | None = Field(default=None, ge=1)
    max_queued_requests: int | None = Field(default=None, ge=-1)
    autoscaling_config: Autoscaling | None = None
    ray_actor_options: ActorOptions | None = None
    graceful_shutdown_wait_loop_s: float | None = Field(default=None, ge=0)
    graceful_shutdown_timeout_s: float | None = Field(default=None, ge=0)
    health_check_period_s: float | None = Field(default=None, gt=0)
    health_check_timeout_s: float | None = Field(default=None, gt=0)
    max_replicas_per_node: int | None = Field(default=None, ge=1)
    max_surge_percent: int | None = Field(default=None, ge=0, le=100)
    logging_config: Logging | None = None


class Application(Spec):
    """One bundle behind one address."""

    name: str = Field(default="default", min_length=1)
    route_prefix: str = Field(default="/", pattern=r"^/")
    import_path: Literal["ray_app.serve.app:build"]
    args: ServeSpec
    runtime_env: dict[str, Any] = {}
    deployments: list[DeploymentOverride] = []
    logging_config: Logging | None = None


class ServeFile(Spec):
    """A config file for `serve run` and `serve deploy`."""

    proxy_location: Literal["Disabled", "HeadOnly", "EveryNode"] = "EveryNode"
    http_options: HTTPOptions
    grpc_options: GrpcOptions | None = None
    logging_config: Logging | None = None
    target_capacity: float | None = Field(default=None, ge=0, le=100)
    applications: list[Application] = Field(min_length=1)

    @model_validator(mode="after")
    def _told_apart(self) -> "ServeFile":
        for what in ("name", "route_prefix"):
            seen = [getattr(application, what) for application in self.applications]
            if twice := {value for value in seen if seen.count(value) > 1}:
                raise ValueError(f"applications: two have the {what} {sorted(twice)[0]!r}; give each its own")
        return self


def check_file(path: str | Path, environment: Mapping[str, str]) -> ServeFile:
    """Read a config file and refuse what Ray Serve would overlook.

    Args:
        path: The file.
        environment: Where tokens are looked up, as on the machine that will serve.

    Raises:
        SpecError: One line: an unknown key, a wrong value, or a host that others can reach without a token.
    """
    file = load(path, ServeFile)
    for application in file.applications:
        try:
            read_token(application.args, file.http_options.host, environment)
        except SpecError as error:
            raise SpecError(f"{path}: {application.name}: {error}") from error
    return file


def read_token(spec: ServeSpec, host: str | None, environment: Mapping[str, str]) -> str | None:
    """Return the bearer token, or None where there is none and none is needed.

    Args:
        spec: Where the token is.
        host: What the server binds to; None: unknown.
        environment: Variable → value.

    Raises:
        SpecError: It cannot be read, is too short or not plain ASCII, or is missing though the host needs it.
    """
    token = environment.get(spec.token_env, "").strip()
    source = spec.token_env
    if not token and spec.token_file is not None:
        source = spec.token_file
        try:
            token = Path(spec.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(
                f"token_file {spec.token_file}: cannot be read ({error}); mend the path"
            ) from error
        if not token:
            raise SpecError(
                f"token_file {spec.token_file}: is empty; write a token of {LEAST_TOKEN} characters or more"
            )
    if not token:
        if host is not None and not is_loopback(host) and spec.keys_file is None:
            raise SpecError(
                f"host {host} can be reached by others, and there is no token; "
                f"set {spec.token_env}, give token_file or keys_file, or bind to 127.0.0.1"
            )
        return None
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise SpecError(
            f"{source}: holds {len(token)} characters; a token has {LEAST_TOKEN} or more, ASCII, no spaces"
        )
    return token


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a host."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
