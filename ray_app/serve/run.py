"""Starts Ray Serve, deploys a bundle with a deadline of its own, and leaves nothing running behind it."""

import logging
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray_app import bundle as bundles
from ray_app.errors import RunError
from ray_app.session import session
from ray_app.spec.serve import ServeSpec, is_loopback, read_token

HOST = "127.0.0.1"
PORT = 8000
DEADLINE_S = 180.0
"""How long a deployment may take. Ray itself would wait for ever."""
_POLL_S = 0.2
_QUIET = {"log_level": "ERROR", "enable_access_log": False}

Say = Callable[[str], None]


@contextmanager
def serving(
    bundle: str | Path,
    spec: ServeSpec | None = None,
    *,
    host: str = HOST,
    port: int = PORT,
    name: str = "ray-app",
    route_prefix: str = "/",
    address: str | None = None,
    deadline_s: float = DEADLINE_S,
    say: Say = lambda _: None,
) -> Iterator[str]:
    """Serve a bundle for the length of a block, which gets the URL.

    Args:
        bundle: Its folder.
        spec: How; None: the defaults. Its `bundle` gives way to the argument.
        host: What to bind to; one that others can reach needs a token.
        port: TCP port; 0: any free one.
        name: The application's name; several can run beside one another on one Ray.
        route_prefix: Path below which it answers.
        address: The cluster (see session.connect).
        deadline_s: How long the deployment may take.
        say: Gets a line now and then.

    Raises:
        SpecError: The bundle cannot be served so, or the host needs a token.
        BundleError: The bundle is damaged.
        RunError: The port is taken, the cluster is too small, or the deployment failed or took too long.
    """
    path = str(Path(bundle).resolve())
    spec = ServeSpec(bundle=path) if spec is None else spec.model_copy(update={"bundle": path})
    _check(spec, host)
    import ray
    from ray import serve

    ours = not ray.is_initialized() and address is None and "RAY_ADDRESS" not in os.environ
    with session(address):
        running = _running()
        port = _join(running, host, port, name) if running else _free(host, port)
        _check_room(spec)
        try:
            if not running:
                _start(host, port)
            url = f"http://{_reachable(host)}:{port}{route_prefix.rstrip('/')}"
            _deploy(spec, host, name, route_prefix)
            _wait(name, url, time.monotonic() + deadline_s, deadline_s, say)
            yield url
        finally:
            # A Ray of our own ends with the session, and Serve with it.
            if running or ours:
                serve.delete(name)
            else:
                serve.shutdown()


def serve(
    bundle: str | Path, spec: ServeSpec | None = None, *, host: str = HOST, port: int = PORT, **options: Any
) -> None:
    """Serve a bundle until this process is told to end (Ctrl-C or SIGTERM).

    Takes what `serving` takes, and raises what it raises.
    """
    say: Say = options.get("say", lambda _: None)
    handlers = _on_signals(_interrupt)
    try:
        with suppress(KeyboardInterrupt), serving(bundle, spec, host=host, port=port, **options) as url:
            # Again: Ray put its own in their place, and those abort.
            _on_signals(_interrupt)
            say(f"serving {bundle} at {url} (documentation: {url}/docs; end with Ctrl-C)")
            threading.Event().wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: Any) -> None:
    # Once: what follows is the clean end, which a second signal must not tear apart.
    _on_signals(signal.SIG_IGN)
    raise KeyboardInterrupt


def _on_signals(handler: Any) -> dict[signal.Signals, Any]:
    """Set what SIGINT and SIGTERM do, and return what they did."""
    return {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}


def _check(spec: ServeSpec, host: str) -> None:
    from ray_app.serve.app import check

    read_token(spec, host, os.environ)
    check(spec, bundles.load(spec.bundle))


def _running() -> tuple[str, int] | None:
    """Where Serve of this Ray listens already."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else (str(client.http_config.host), int(client.http_config.port))


def _join(running: tuple[str, int], host: str, port: int, name: str) -> int:
    from ray import serve

    if running[0] != host or port not in (0, running[1]):
        raise RunError(
            f"this Ray serves at {running[0]}:{running[1]} already, not at {host}:{port}; "
            "one Ray has one address, use that one or end it first"
        )
    if name in serve.status().applications:
        raise RunError(
            f"an application {name!r} runs already at {running[0]}:{running[1]}; give another name"
        )
    return running[1]


def _free(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server will: a connection that just ended does not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RunError(
                f"cannot listen at {host}:{port} ({error.strerror}); end what is there, or give another port"
            ) from error
        return int(probe.getsockname()[1])


def _check_room(spec: ServeSpec) -> None:
    import ray

    from ray_app.serve.app import demand

    cpus, gpus = demand(spec, bundles.load(spec.bundle, verify=False))
    free = ray.available_resources()
    for what, needed in (("CPU", cpus), ("GPU", gpus)):
        if needed > free.get(what, 0) + 1e-6:
            raise RunError(
                f"serving needs {needed:g} {what}, {free.get(what, 0):g} are free; "
                f"lower resources.num_{what.lower()}s or autoscaling.min_replicas, or use a larger cluster"
            )


def _start(host: str, port: int) -> None:
    from ray import serve

    options = {"host": host, "port": port}
    # On loopback only the head's own proxy can be reached; a second one elsewhere would be a waste.
    location = "HeadOnly" if is_loopback(host) else "EveryNode"
    serve.start(proxy_location=location, http_options=options, logging_config=_QUIET)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)


def _deploy(spec: ServeSpec, host: str, name: str, route_prefix: str) -> None:
    from ray import serve

    from ray_app.serve.app import application

    target = serve.RunTarget(
        target=application(spec, host), name=name, route_prefix=route_prefix, logging_config=_QUIET
    )
    # Waiting is ours: Ray's own has no end where a replica does not fit.
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _wait(name: str, url: str, end: float, deadline_s: float, say: Say) -> None:
    last = ""
    while time.monotonic() < end:
        status, message, waiting = _state(name)
        if status == "DEPLOY_FAILED":
            raise RunError(f"deployment failed: {_last_line(message)}")
        if status == "RUNNING" and _answers(f"{url}/readyz"):
            return
        line = f"starting {', '.join(waiting)}" if waiting else "starting the proxy"
        if line != last:
            say(line)
            last = line
        time.sleep(_POLL_S)
    raise RunError(
        f"not ready after {deadline_s:g} s: {last or 'no status'}; "
        "is the cluster busy? Ray's log folder has serve/*.log"
    )


def _state(name: str) -> tuple[str, str, list[str]]:
    from ray import serve

    application = serve.status().applications.get(name)
    if application is None:
        return "NOT_STARTED", "", []
    deployments = application.deployments
    message = application.message + "\n".join(
        part.message for part in deployments.values() if part.status == "DEPLOY_FAILED"
    )
    waiting = [key for key, part in deployments.items() if part.status != "HEALTHY"]
    return str(application.status.value), message, waiting


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own http address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _reachable(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound to
        return HOST
    return f"[{host}]" if ":" in host else host


def _last_line(message: str) -> str:
    # Ray gives a traceback; its last line of ours says what was wrong.
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    told = [line for line in lines if "Error: " in line]
    return (told or lines or ["no reason was given; see serve/*.log in Ray's log folder"])[-1]


__all__ = ["DEADLINE_S", "HOST", "PORT", "serve", "serving"]
