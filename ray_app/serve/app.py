"""From settings to a Ray Serve application: `import_path: ray_app.serve.app:build`.

proxy → ingress (HTTP, limits, token, policy) → model (batches, members, heads, detectors)
proxy → ingress → model (batches, heads, detectors) → member-<name> each        with `placement: spread`
"""

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from ray_app import bundle as bundles
from ray_app.bundle import Bundle
from ray_app.errors import SpecError
from ray_app.serve.answers import Answer, Refusal, Wish
from ray_app.serve.drift import Monitor, Seen
from ray_app.serve.http import create_app
from ray_app.serve.keys import Ring, digest
from ray_app.serve.keys import read as read_keys
from ray_app.serve.policy import deciders
from ray_app.spec import parse
from ray_app.spec.serve import Autoscaling, Batching, Limits, Resources, ServeSpec, Spread, read_token

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle

    from ray_app.methods.encoders import Features, Inputs, Want
    from ray_app.serve.answers import Instance

SERVED = ("image", "text")
"""Modalities whose instances have a form in a request."""
# Twice a batch: one in work and one that gathers meanwhile.
_BATCHES_IN_WORK = 2
# The ingress only waits for others; what limits is the model's queue, which can say so.
_INGRESS_ONGOING = 2000


def build(args: dict[str, Any]) -> "Application":
    """Return the application for `args` of a Serve config file.

    Raises:
        SpecError: Unknown or wrong settings, or a host that others can reach without a token.
        BundleError: The bundle is damaged.
    """
    return application(parse(args, ServeSpec, where="args"), host=listening_host())


def application(spec: ServeSpec, host: str | None) -> "Application":
    """Return the application for a checked spec.

    Args:
        spec: See ServeSpec.
        host: What Serve binds to; None: not known yet.

    Raises:
        SpecError: The bundle cannot be served as the spec says.
        BundleError: The bundle is damaged.
    """
    token = read_token(spec, host, os.environ)
    if spec.keys_file is not None:
        # A replica's working folder is another one.
        spec = spec.model_copy(update={"keys_file": str(Path(spec.keys_file).resolve())})
        read_keys(Path(str(spec.keys_file)))
    bundle = bundles.load(Path(spec.bundle).resolve())
    check(spec, bundle)
    model = _spread(spec, bundle) if spec.placement == "spread" else _together(spec, bundle)
    ingress: Any = serve.deployment(
        Ingress,
        name="ingress",
        num_replicas=spec.ingress.replicas,
        max_ongoing_requests=_INGRESS_ONGOING,
        ray_actor_options={"num_cpus": spec.ingress.num_cpus},
    )
    return ingress.bind(str(bundle.path), bundle.version, spec, digest(token) if token else None, model)


def check(spec: ServeSpec, bundle: Bundle) -> None:
    """Refuse what would fail only in a replica, where nobody sees it.

    Raises:
        SpecError: Names what does not go together.
    """
    manifest = bundle.manifest
    deciders(spec.policy, manifest)
    if manifest.modality not in SERVED:
        raise SpecError(
            f"{bundle.path}: takes {manifest.modality}; only {' and '.join(SERVED)} can be served"
        )
    for name in spec.spread.members:
        if name not in manifest.members:
            raise SpecError(
                f"spread.members: the bundle has no member {name!r} (has: {', '.join(manifest.members)})"
            )
    if spec.placement == "spread":
        _check_judge(bundle)


def demand(spec: ServeSpec, bundle: Bundle) -> tuple[float, float]:
    """Return the CPUs and GPUs that it needs at least, all replicas of all deployments together."""
    model = [_judging(spec)] if spec.placement == "spread" else [spec.resources]
    if spec.placement == "spread":
        model += [spec.spread.members.get(name, spec.resources) for name in bundle.manifest.members]
    replicas = spec.autoscaling.min_replicas
    cpus = spec.ingress.replicas * spec.ingress.num_cpus + replicas * sum(part.num_cpus for part in model)
    return cpus, replicas * sum(part.num_gpus for part in model)


def listening_host() -> str | None:
    """Return what the running Serve binds to, or None where none runs."""
    # There is no public way to ask; without it `serve run` on 0.0.0.0 would be open to everyone.
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else str(client.http_config.host)


@serve.ingress()
class Ingress:
    """Speaks HTTP; loads the manifest, but no model."""

    def __init__(
        self,
        bundle: str,
        version: str,
        spec: ServeSpec,
        token_digest: str | None,
        model: "DeploymentHandle[Any]",
    ) -> None:
        found = bundles.load(Path(bundle), verify=False)
        if found.version != version:
            raise SpecError(
                f"{bundle}: is now version {found.version}, deployed was {version}; deploy it again"
            )
        ring = Ring(token_digest, Path(spec.keys_file) if spec.keys_file is not None else None)
        monitor = Monitor(found.manifest, spec.drift, _gauges(found))
        self._app = create_app(Remote(model, spec.limits), found, spec, ring, monitor)

    def __serve_build_asgi_app__(self) -> "FastAPI":
        """Return the application; Ray Serve calls this."""
        return self._app


def _gauges(bundle: Bundle) -> Callable[[str, Seen], None]:
    """Return what sets Prometheus' gauges, which Ray exports with those of its own."""
    from ray.util.metrics import Gauge

    tags = ("bundle", "version", "detector")
    psi = Gauge("ray_app_score_psi", "Population stability index of the latest scores.", tag_keys=tags)
    drifted = Gauge("ray_app_score_drifted", "1: the latest scores have drifted.", tag_keys=tags)

    def tell(name: str, seen: Seen) -> None:
        if seen.psi is not None:
            of = {"bundle": bundle.manifest.name, "version": bundle.version, "detector": name}
            psi.set(seen.psi, of)
            drifted.set(float(bool(seen.drifted)), of)

    return tell


class Remote:
    """The model behind a deployment handle: deadline, queue limit, one more try.

    Args:
        handle: Of the model.
        limits: What is refused.
    """

    def __init__(self, handle: "DeploymentHandle[Any]", limits: Limits) -> None:
        self._handle = handle
        self._limits = limits

    async def answer(self, instances: "Sequence[Instance]", wishes: frozenset[Wish]) -> Answer | Refusal:
        """Answer for n instances.

        A prediction changes nothing, so one whose replica died in the middle is asked once more of another.
        """
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                try:
                    return await self._handle.answer.remote(instances, wishes)
                except RayActorError:
                    return await self._handle.answer.remote(instances, wishes)
        except BackPressureError:
            return Refusal(503, f"{self._limits.queued_requests} requests wait already; try again later")
        except (RayActorError, DeploymentUnavailableError):
            return Refusal(503, "the model is not available; try again later")
        except TimeoutError:
            return Refusal(
                504, f"no answer within {self._limits.timeout_s:g} s; send less, or try again later"
            )

    async def probe(self) -> float:
        """Return the milliseconds that a real forward pass took."""
        return await self._handle.probe.remote()


@dataclass(frozen=True)
class AskMember:
    """One member behind a deployment handle."""

    handle: "DeploymentHandle[Any]"

    async def __call__(self, inputs: "Inputs", want: "Collection[Want]") -> "Features":
        """Return its features."""
        return await self.handle.features.remote(inputs, want)


# Ray pickles a deployment's class by name; these construct the plain ones inside the replica, so that neither
# the controller nor whoever builds the application imports torch.
class ModelReplica:
    """Model, in a replica; see there."""

    def __init__(self, bundle: str, version: str, batching: Batching, *, gpu: bool, threads: int) -> None:
        from ray_app.serve.model import Model

        _use_threads(threads)
        self._model = Model(bundle, version, batching, _device(gpu=gpu))

    async def answer(self, instances: "Sequence[Instance]", wishes: frozenset[Wish]) -> Answer | Refusal:
        """Answer for n instances."""
        return await self._model.answer(instances, wishes)

    async def probe(self) -> float:
        """Return the milliseconds of a forward pass."""
        return await self._model.probe()

    async def check_health(self) -> None:
        """Raise where no forward pass is possible; Ray Serve calls this."""
        await self._model.check_health()


class SpreadReplica(ModelReplica):
    """SpreadModel, in a replica; see there."""

    def __init__(
        self,
        bundle: str,
        version: str,
        batching: Batching,
        spread: Spread,
        members: "Mapping[str, DeploymentHandle[Any]]",
    ) -> None:
        from ray_app.serve.model import SpreadModel

        _use_threads(1)
        asks = {name: AskMember(handle) for name, handle in members.items()}
        self._model = SpreadModel(bundle, version, batching, spread, asks)  # type: ignore[assignment]

    async def check_health(self) -> None:
        """Do nothing: missing members degrade the answers, and a new replica would not bring them back."""


class MemberReplica:
    """Member, in a replica; see there."""

    def __init__(self, bundle: str, version: str, name: str, *, gpu: bool, threads: int) -> None:
        from ray_app.serve.model import Member

        _use_threads(threads)
        self._member = Member(bundle, version, name, _device(gpu=gpu))

    async def features(self, inputs: "Inputs", want: "Collection[Want]") -> "Features":
        """Return the features of n preprocessed inputs."""
        return await self._member.features(inputs, want)


def _together(spec: ServeSpec, bundle: Bundle) -> "Application":
    model: Any = _deployment(ModelReplica, "model", spec, spec.resources)
    return model.bind(str(bundle.path), bundle.version, spec.batching, **_hardware(spec.resources))


def _spread(spec: ServeSpec, bundle: Bundle) -> "Application":
    members = {}
    for name in bundle.manifest.members:
        resources = spec.spread.members.get(name, spec.resources)
        member: Any = _deployment(MemberReplica, f"member-{name}", spec, resources)
        members[name] = member.bind(str(bundle.path), bundle.version, name, **_hardware(resources))
    model: Any = _deployment(SpreadReplica, "model", spec, _judging(spec))
    return model.bind(str(bundle.path), bundle.version, spec.batching, spec.spread, members)


def _judging(spec: ServeSpec) -> Resources:
    """Heads and detectors alone need no accelerator."""
    return Resources(num_cpus=spec.ingress.num_cpus)


def _deployment(cls: type[Any], name: str, spec: ServeSpec, resources: Resources) -> Any:
    return serve.deployment(
        cls,
        name=name,
        num_replicas="auto",
        autoscaling_config=_autoscaling(spec.autoscaling),
        max_ongoing_requests=max(8, _BATCHES_IN_WORK * spec.batching.max_rows),
        max_queued_requests=spec.limits.queued_requests,
        ray_actor_options=resources.model_dump(exclude_none=True),
    )


def _autoscaling(autoscaling: Autoscaling) -> dict[str, Any]:
    return autoscaling.model_dump(exclude_none=True)


def _hardware(resources: Resources) -> dict[str, Any]:
    return {"gpu": resources.num_gpus > 0, "threads": max(1, int(resources.num_cpus))}


def _device(*, gpu: bool) -> str:
    return "cuda" if gpu else "cpu"


def _use_threads(threads: int) -> None:
    import torch

    # A worker that is used again keeps the number of its first import.
    torch.set_num_threads(threads)


def _check_judge(bundle: Bundle) -> None:
    from ray_app.errors import BundleError
    from ray_app.predictor import Judge

    try:
        Judge(bundle)
    except BundleError as error:
        raise SpecError(f"placement: spread cannot serve this bundle, place it together ({error})") from error
