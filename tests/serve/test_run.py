"""Real Ray Serve, real HTTP: one served bundle, and what happens when its processes die."""

import asyncio
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ray_app.bundle import Bundle, load
from ray_app.errors import RunError, SpecError
from ray_app.serve import run
from ray_app.serve.run import serving
from ray_app.spec.serve import ServeSpec
from tests.bundles import digits
from tests.serve.local import TOKEN, b64, encoded

PIXELS, _ = digits(3)
GOOD = {"instances": [PIXELS[0, ..., 0].tolist()]}
BAD = {"instances": [b64(encoded(PIXELS[0])[:60])]}
JSON = {"content-type": "application/json"}
AUTH = {"authorization": f"Bearer {TOKEN}"}
# Process titles are looked up by it, and other sessions may run on this machine.
MODULE = f"module-{os.getpid()}"
SMALL: dict[str, Any] = {
    "resources": {"num_cpus": 0.1},
    "ingress": {"num_cpus": 0.1},
    "autoscaling": {"max_replicas": 1},
}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module")
def url(ray_session: None, three: Bundle) -> Iterator[str]:
    """Three members together; a token; a small queue."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_APP_TOKEN", TOKEN)
        spec = ServeSpec(bundle="-", **SMALL, limits={"body_bytes": 100_000})
        with serving(three.path, spec, port=0, name=MODULE) as found:
            yield found


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers=AUTH, timeout=60) as one:
        yield one


def port_of(url: str) -> int:
    return httpx.URL(url).port or 80


def replicas(app: str, deployment: str) -> list[int]:
    """Return the process ids of a deployment's replicas."""
    title = f"ray::ServeReplica:{app}:{deployment}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if process.read_bytes().startswith(title):
                found.append(int(process.parent.name))
    return found


def test_it_answers_over_http(client: httpx.Client, three: Bundle) -> None:
    answer = client.post("/v1/predict", json=GOOD)
    assert answer.status_code == 200
    content = answer.json()
    assert content["bundle"] == {"name": "tiny", "version": three.version}
    assert content["degraded"] is False
    assert content["predictions"][0]["label"] in three.manifest.labels
    upload = client.post("/v1/predict", files={"image": ("digit.png", encoded(PIXELS[0]), "image/png")})
    assert upload.json()["predictions"] == content["predictions"]
    assert client.post("/v1/embed", json=GOOD).json()["dim"] > 0
    assert "max_softmax" in client.post("/v1/detect", json=GOOD).json()["detections"][0]["detectors"]
    assert httpx.get(f"{client.base_url}/healthz").json()["milliseconds"] > 0
    assert client.get("/openapi.json").json()["info"]["version"] == three.version


def endless(size: int) -> Iterator[bytes]:
    for _ in range(size // 10_000):
        yield b" " * 10_000


WRONG: list[tuple[int, str, Callable[[httpx.Client], httpx.Response]]] = [
    (400, "malformed JSON", lambda c: c.post("/v1/predict", content="{", headers=JSON)),
    (422, "shape 3", lambda c: c.post("/v1/predict", json={"instances": [[1, 2, 3]]})),
    (422, "row 0: not a readable image", lambda c: c.post("/v1/predict", json=BAD)),
    (413, "body of more than", lambda c: c.post("/v1/predict", content=b" " * 10**6, headers=JSON)),
    (413, "body of more than", lambda c: c.post("/v1/predict", content=endless(10**6), headers=JSON)),
    (403, "wrong token", lambda c: c.post("/v1/predict", json=GOOD, headers={"authorization": "Bearer x"})),
    (401, "no token", lambda c: httpx.post(f"{c.base_url}/v1/predict", json=GOOD)),
    (404, "no such path '/nothing'", lambda c: c.get("/nothing")),
    (405, "GET is not for", lambda c: c.get("/v1/predict")),
    (415, "text/csv", lambda c: c.post("/v1/predict", content="1,2", headers={"content-type": "text/csv"})),
]


@pytest.mark.parametrize(
    ("status", "said", "ask"), WRONG, ids=[f"{status} {said}" for status, said, _ in WRONG]
)
def test_a_wrong_request_is_told_and_the_server_lives_on(
    client: httpx.Client, status: int, said: str, ask: Callable[[httpx.Client], httpx.Response]
) -> None:
    answer = ask(client)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert said in answer.json()["error"]
    assert client.post("/v1/predict", json=GOOD).status_code == 200


def test_bad_requests_fail_alone_among_good_ones(url: str) -> None:
    async def go() -> list[int]:
        async with httpx.AsyncClient(base_url=url, headers=AUTH, timeout=60) as client:
            bodies = [BAD if row % 4 == 1 else GOOD for row in range(24)]
            answers = await asyncio.gather(*(client.post("/v1/predict", json=body) for body in bodies))
            return [answer.status_code for answer in answers]

    assert asyncio.run(go()) == [422 if row % 4 == 1 else 200 for row in range(24)]


def test_a_killed_model_costs_no_prediction(client: httpx.Client) -> None:
    (pid,) = replicas(MODULE, "model")
    os.kill(pid, signal.SIGKILL)
    assert client.post("/v1/predict", json=GOOD).status_code == 200
    assert replicas(MODULE, "model") != [pid]


def test_a_missing_member_degrades_and_the_queue_has_an_end(url: str, three: Bundle) -> None:
    """Both on one deployment: each costs several processes."""
    limits = {"queued_requests": 2, "timeout_s": 20}
    # Nothing is in time where the deadline is this short; and a long one keeps requests in the queue.
    spec = ServeSpec(
        bundle="-",
        placement="spread",
        **SMALL,
        limits=limits,
        spread={"deadline_s": 3, "rest_s": 600},
        batching={"max_rows": 1},
    )
    with serving(
        three.path, spec, port=port_of(url), name=f"apart-{os.getpid()}", route_prefix="/apart"
    ) as apart:
        whole = httpx.post(f"{apart}/v1/predict", json=GOOD, headers=AUTH, timeout=60).json()
        assert (whole["degraded"], whole["missing_members"]) == (False, [])
        assert whole["predictions"][0]["detectors"]["mahalanobis"]["score"] is not None
        (pid,) = replicas(f"apart-{os.getpid()}", "member-m1")
        # Stopped, not killed: it would be back at once.
        os.kill(pid, signal.SIGSTOP)
        try:
            # The first one waits for the stopped member; meanwhile the queue fills.
            statuses = asyncio.run(burst(f"{apart}/v1/predict", 24))
            degraded = httpx.post(f"{apart}/v1/predict", json=GOOD, headers=AUTH, timeout=60).json()
        finally:
            os.kill(pid, signal.SIGCONT)
    assert set(statuses) == {200, 503}
    assert (degraded["degraded"], degraded["missing_members"]) == (True, ["m1"])
    prediction = degraded["predictions"][0]
    assert prediction["label"] is not None
    assert prediction["heads"] is None
    assert prediction["detectors"]["mahalanobis"]["score"] is None
    assert prediction["abnormal"] is None


async def burst(url: str, number: int) -> list[int]:
    async with httpx.AsyncClient(headers=AUTH, timeout=60) as client:
        answers = await asyncio.gather(*(client.post(url, json=GOOD) for _ in range(number)))
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json() == {"error": "2 requests wait already; try again later"}
            assert answer.headers["retry-after"] == "1"
    return [answer.status_code for answer in answers]


def test_the_config_file_serves(url: str, three: Bundle) -> None:
    """serve/digits.yaml with this test's bundle: Ray's schema takes it, and its import path builds it."""
    from ray import serve
    from ray.serve.schema import ServeDeploySchema

    content = yaml.safe_load((Path(__file__).parents[2] / "serve" / "digits.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(content).applications
    settings = {"bundle": str(three.path), "resources": {"num_cpus": 0.1}, "ingress": {"num_cpus": 0.1}}
    module, _, name = application.import_path.partition(":")
    build = getattr(importlib.import_module(module), name)
    try:
        serve.run(build({**application.args, **settings}), name="file", route_prefix="/file")
        assert httpx.post(f"{url}/file/v1/predict", json=GOOD, headers=AUTH, timeout=60).status_code == 200
        assert httpx.get(f"{url}/file/readyz", timeout=60).status_code == 200
        assert httpx.get(f"{url}/file/v1/predict", timeout=60).status_code == 401
    finally:
        serve.delete("file")


def test_one_ray_serves_at_one_address(url: str, three: Bundle) -> None:
    with pytest.raises(RunError, match=rf"this Ray serves at 127.0.0.1:{port_of(url)} already"):
        serving(three.path, port=1).__enter__()
    with pytest.raises(RunError, match=f"an application {MODULE!r} runs already"):
        serving(three.path, port=0, name=MODULE).__enter__()


def test_too_small_a_cluster_is_said_at_once(url: str, three: Bundle) -> None:
    spec = ServeSpec(bundle="-", resources={"num_cpus": 64})
    with pytest.raises(RunError, match=r"serving needs 64.2 CPU, [\d.]+ are free; lower resources.num_cpus"):
        serving(three.path, spec, port=0, name="big").__enter__()
    spec = ServeSpec(bundle="-", resources={"num_gpus": 1})
    with pytest.raises(RunError, match=r"serving needs 1 GPU, 0 are free"):
        serving(three.path, spec, port=0, name="big").__enter__()


def test_a_deployment_that_takes_too_long_is_ended(url: str, three: Bundle) -> None:
    from ray import serve

    with pytest.raises(RunError, match=r"not ready after 0 s"):
        serving(
            three.path,
            ServeSpec(bundle="-", **SMALL),
            port=0,
            name="slow",
            route_prefix="/slow",
            deadline_s=0,
        ).__enter__()
    assert "slow" not in serve.status().applications


def test_an_open_host_needs_a_token(three: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_APP_TOKEN", raising=False)
    with pytest.raises(SpecError, match="can be reached by others"):
        serving(three.path, host="0.0.0.0").__enter__()  # noqa: S104 - refused


def test_a_taken_port_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=rf"cannot listen at 127.0.0.1:{port} \(Address already in use\)"):
            run._free("127.0.0.1", port)
    assert run._free("127.0.0.1", 0) > 0


SERVER = """
import sys
from ray_app.serve.run import serve
from ray_app.spec.serve import ServeSpec
small = {"num_cpus": 0.1}
spec = ServeSpec(bundle="-", resources=small, ingress=small, autoscaling={"max_replicas": 1})
serve(sys.argv[1], spec, port=0, say=lambda line: print(line, flush=True))
"""


def test_a_server_of_its_own_ends_clean_on_sigterm(one: Bundle) -> None:
    """The way `ray-app serve` runs: a Ray of its own, gone with it."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("RAY_ADDRESS", "RAY_APP"))
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(one.path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(90, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("serving"))
        address = line.partition(" at ")[2].partition(" ")[0]
        assert httpx.post(f"{address}/v1/predict", json=GOOD, timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    finally:
        timer.cancel()
        process.kill()
    assert process.returncode == 0
    assert errors == ""
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/healthz")


def test_the_bundle_is_not_touched(three: Bundle) -> None:
    assert load(three.path).version == three.version
