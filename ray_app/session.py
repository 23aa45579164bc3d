"""The connection to Ray: a cluster where one is named, else a quiet local one."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ray_app.errors import RayAppError, RunError, SpecError

# Logical, not physical: a read, an actor pool and a writer each hold a CPU, and with fewer of them Ray Data
# waits for ever without a word. Two real cores run four logical ones well.
LEAST_CPUS = 4
# glibc's names for what mallopt sets.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def connect(address: str | None = None, num_cpus: int | None = None, *, metrics: bool = True) -> None:
    """Connect this process to Ray; nothing happens where it is connected already.

    Args:
        address: A cluster's address, `auto`, or None: the one that RAY_ADDRESS names (set inside a Ray job),
            else a new local one on this machine.
        num_cpus: Logical CPUs of a new local one; None: this machine's, at least LEAST_CPUS.
        metrics: Whether a new local one collects numbers about itself, which few cores feel.

    Raises:
        SpecError: num_cpus for a cluster that is there already, or what is no address.
        RunError: No cluster answers there; the message says what to check.
    """
    # Heavy, and most commands of the command line do not need it.
    quiet()
    import ray

    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        cpus = num_cpus or max(LEAST_CPUS, len(os.sched_getaffinity(0)))
        system = {} if metrics else {"enable_metrics_collection": False}
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, _system_config=system, **common)
        return
    if num_cpus is not None:
        raise SpecError(f"num_cpus={num_cpus} is for a new local Ray; the cluster at {address} has its own")
    _check_reachable(address)
    # Without it the driver sends no token at all, and is refused after twenty seconds without a reason.
    if _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        ray.init(address=address, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(
            f"no Ray cluster answers at {address} ({_one_line(error)}); "
            "is it up, and is RAY_AUTH_TOKEN its token?"
        ) from error


@contextmanager
def session(
    address: str | None = None, num_cpus: int | None = None, *, metrics: bool = True
) -> Iterator[None]:
    """Connect for the length of a block; a connection that was there before is left alone."""
    quiet()
    import ray

    was_there = ray.is_initialized()
    connect(address, num_cpus, metrics=metrics)
    try:
        yield
    finally:
        if not was_there:
            ray.shutdown()


def quiet() -> None:
    """Keep Ray's chatter in its log files; ours is what a user came for."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    for name in ("ray", "ray.data", "ray.serve", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def submit(function: Callable[..., Any], *args: Any, cpus: float, gpus: float = 0.0, **options: Any) -> Any:
    """Run a function as a Ray task and return a reference to what it returns.

    It is retried when its worker dies. torch has as many threads in it as it holds CPUs: an idle worker that
    Ray uses again would keep those of its first task.
    """
    import ray

    remote: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=2)(_with_threads)
    return remote.remote(max(1, int(cpus)), function, *args, **options)


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, up to 256 MiB, for what it allocates next.

    A network's activations are freed and taken again with each batch; the C library gives them back to the
    kernel each time, which then has to clear every page anew: up to a tenth of the time on a CPU.
    """
    import ctypes

    # Where the C library is another one, there is nothing to set.
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def check_resources(cpus: float, gpus: float, what: str) -> None:
    """Refuse what the connected cluster does not have; Ray would wait for it for ever.

    Args:
        cpus: CPUs that one piece of work holds.
        gpus: GPUs, likewise.
        what: The spec's key, for the message.

    Raises:
        SpecError: More than there is.
    """
    for name, wanted, there in (("CPUs", cpus, total_cpus()), ("GPUs", gpus, total_gpus())):
        if wanted > there:
            raise SpecError(f"{what}: {wanted:g} {name} asked for, the cluster has {there:g}; ask for less")


def fetch(references: Any) -> Any:
    """Return what Ray tasks returned; an error that a user can mend arrives as itself, without a trace.

    Raises:
        RunError: A worker died.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(references)
    except RayTaskError as error:
        if isinstance(error.cause, RayAppError):
            raise error.cause from None
        raise
    except RayError as error:
        raise RunError(
            f"a worker was lost ({_one_line(error)}); out of memory? run the same command again"
        ) from error


def total_cpus() -> float:
    """Return the connected cluster's logical CPUs."""
    import ray

    return float(ray.cluster_resources().get("CPU", 0))


def total_gpus() -> float:
    """Return the connected cluster's GPUs."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0))


def _with_threads(threads: int, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    import torch

    torch.set_num_threads(threads)
    keep_freed_memory()
    return function(*args, **options)


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    # Where Ray keeps the token of clusters that were started on this machine.
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def _check_reachable(address: str) -> None:
    # Ray retries an address where nobody listens for a long while before it says so.
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SpecError(f"{address}: is no address ({error}); expected host:port") from error
    if address == "auto" or host is None or port is None:
        return
    try:
        with suppress(TimeoutError):
            socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        raise RunError(
            f"nobody listens at {address} ({error}); start the cluster or mend RAY_ADDRESS"
        ) from error


def _one_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
