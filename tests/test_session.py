"""The connection to Ray: errors arrive as themselves, lost workers are told, nobody waits for nothing."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ray_app.errors import RunError, SpecError
from ray_app.session import check_resources, connect, fetch, quiet, session, submit, total_cpus, total_gpus


def refused(address: str) -> str:
    """What a fresh process is told that connects to an address."""
    code = (
        "import sys; from ray_app.errors import RayAppError; from ray_app.session import connect\n"
        "try: connect(sys.argv[1])\n"
        "except RayAppError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken but on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_task_returns_what_its_function_returns(ray_session: None) -> None:
    def add(a: int, b: int = 0) -> int:
        return a + b

    references = [submit(add, index, b=10, cpus=0.5) for index in range(3)]
    assert fetch(references) == [10, 11, 12]
    assert fetch(references[0]) == 10


def test_torch_has_as_many_threads_as_its_task_has_cpus(ray_session: None) -> None:
    def threads() -> int:
        import torch

        return torch.get_num_threads()

    # One after the other: the second meets the worker that the first has used.
    assert fetch(submit(threads, cpus=2)) == 2
    assert fetch(submit(threads, cpus=1)) == 1
    assert fetch(submit(threads, cpus=0.25)) == 1


def test_an_error_that_a_user_can_mend_arrives_as_itself(ray_session: None) -> None:
    def refuse() -> None:
        raise SpecError("knn: k must be >= 1, got 0")

    with pytest.raises(SpecError) as caught:
        fetch(submit(refuse, cpus=1))
    assert type(caught.value) is SpecError
    assert str(caught.value) == "knn: k must be >= 1, got 0"


def test_it_does_so_through_a_task_that_needs_what_failed(ray_session: None) -> None:
    def refuse() -> int:
        raise SpecError("no such split")

    def use(number: int) -> int:
        return number

    with pytest.raises(SpecError, match=r"^no such split$"):
        fetch(submit(use, submit(refuse, cpus=1), cpus=1))


def test_an_error_of_ours_keeps_its_trace(ray_session: None) -> None:
    def broken() -> float:
        return 1 / 0

    with pytest.raises(ZeroDivisionError, match="in broken"):
        fetch(submit(broken, cpus=1))


@pytest.mark.slow
def test_a_lost_worker_is_told(ray_session: None) -> None:
    def die() -> None:
        os._exit(1)

    with pytest.raises(
        RunError, match=r"a worker was lost \(.+\); out of memory\? run the same command again"
    ):
        fetch(submit(die, cpus=1))


def test_a_worker_that_is_lost_once_costs_nothing(ray_session: None, tmp_path: os.PathLike[str]) -> None:
    mark = os.path.join(tmp_path, "died")  # noqa: PTH118

    def die_once() -> str:
        if not os.path.exists(mark):  # noqa: PTH110
            os.mkdir(mark)  # noqa: PTH102
            os._exit(1)
        return "done"

    assert fetch(submit(die_once, cpus=1)) == "done"


def test_what_the_cluster_lacks_is_refused(ray_session: None) -> None:
    assert total_cpus() == 4
    check_resources(4, total_gpus(), "num_cpus")
    with pytest.raises(SpecError, match=r"^sweep: 4\.5 CPUs asked for, the cluster has 4; ask for less$"):
        check_resources(4.5, 0, "sweep")
    with pytest.raises(SpecError, match="GPUs asked for"):
        check_resources(1, total_gpus() + 1, "sweep")


def test_a_session_within_one_leaves_it_alone(ray_session: None) -> None:
    import ray

    with session():
        pass
    assert ray.is_initialized()
    # Connected already: another address changes nothing.
    connect("127.0.0.1:1")
    assert ray.is_initialized()


def test_nobody_at_an_address_is_one_line(closed_port: int) -> None:
    told = refused(f"127.0.0.1:{closed_port}")
    assert told.startswith(f"RunError nobody listens at 127.0.0.1:{closed_port} (")
    assert "start the cluster or mend RAY_ADDRESS" in told


@pytest.mark.parametrize("address", ["localhost:notaport", "127.0.0.1:99999"])
def test_what_is_no_address_is_one_line(address: str) -> None:
    told = refused(address)
    assert told.startswith(f"SpecError {address}: ")
    assert "host:port" in told


def test_cpus_are_for_a_new_local_ray_only() -> None:
    code = (
        "from ray_app.errors import SpecError; from ray_app.session import connect\n"
        "try: connect('127.0.0.1:9', num_cpus=2)\n"
        "except SpecError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "num_cpus=2 is for a new local Ray; the cluster at 127.0.0.1:9 has its own\n"


def test_what_a_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "0")
    monkeypatch.delenv("RAY_SERVE_LOG_TO_STDERR", raising=False)
    quiet()
    assert os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] == "0"
    assert os.environ["RAY_SERVE_LOG_TO_STDERR"] == "0"
    assert logging.getLogger("ray").level == logging.ERROR


def test_a_worker_keeps_the_memory_that_it_frees() -> None:
    """Of a block that is taken and freed again and again, the pages are cleared once."""
    import subprocess
    import sys

    program = """
import ctypes, resource
from ray_app.session import keep_freed_memory
{}
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def turn():
    block = c.malloc(8 << 20)
    ctypes.memset(block, 1, 8 << 20)
    c.free(block)
turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def faults(setting: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", program.format(setting)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert faults("keep_freed_memory()") < 0.1 * faults("c0 = ctypes.CDLL(None); c0.mallopt(-1, 0)")
