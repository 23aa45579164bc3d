"""The README's examples, run in its order in a folder of their own; only the sweep is made shorter."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEADLINE_S = 180
POLL_S = 0.2
SHORTER = {
    "sweep": {"trials": 2, "rows": 150, "train": {"epochs": 1, "batch_size": 50, "lr": 3e-3}},
    "stages": [{"name": "pretrain", "rows": 200, "train": {"epochs": 1, "batch_size": 100, "lr": 3e-3}}],
}


def blocks(language: str) -> list[str]:
    """Return the README's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the YAML files, a shorter sweep and a picture of a digit."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("datasets", "tune", "serve"):
        shutil.copytree(ROOT / name, folder / name)
    sweep = yaml.safe_load((ROOT / "tune" / "digits.yaml").read_text())
    for key, value in SHORTER.items():
        sweep[key] = {**sweep[key], **value} if isinstance(value, dict) else value
    (folder / "tune" / "digits.yaml").write_text(yaml.safe_dump(sweep))
    pixels = load_digits().images[3] * (255 / 16)
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "digit.png")
    return folder


@pytest.fixture(scope="module")
def environment(ray_session: None) -> dict[str, str]:
    """The commands find this interpreter's ray-app, and the tests' Ray."""
    import ray

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.fixture(scope="module")
def stepped(project: Path, environment: dict[str, str]) -> Iterator[tuple[Path, int]]:
    """Every command of the first block was run; the last one, the server, still runs on a free port."""
    *steps, server = blocks("sh")[0].strip().splitlines()
    for step in steps:
        done = subprocess.run(shlex.split(step), cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{step}\n{done.stdout}\n{done.stderr}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A Ray of its own: another test may be serving on the shared one.
    alone = {key: value for key, value in environment.items() if key != "RAY_ADDRESS"}
    command = [*shlex.split(server), "--port", str(port)]
    running = subprocess.Popen(
        command, cwd=project, env=alone, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + DEADLINE_S
        while not ready(port):
            assert running.poll() is None, f"{server} ended with {running.returncode}"
            assert time.monotonic() < end, f"{server} was not ready in time"
            time.sleep(POLL_S)
        yield project, port
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(timeout=60)


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_every_command_works(stepped: tuple[Path, int], environment: dict[str, str]) -> None:
    project, port = stepped
    left = [
        "runs/digits/report.html",
        "runs/digits/bundle/bundle.json",
        "runs/digits-scored/dataset.json",
        "runs/digits-suite/report.html",
    ]
    assert [name for name in left if not (project / name).is_file()] == []
    answers = []
    for line in blocks("sh")[1].strip().splitlines():
        command = shlex.split(line.replace("8000", str(port)))
        done = subprocess.run([*command, "--silent", "--fail"], cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        answers.append(yaml.safe_load(done.stdout))
    assert answers[0]["status"] == "ok"
    assert answers[1]["predictions"][0]["label"] in [str(digit) for digit in range(10)]
    [python] = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", python], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"\[\d, \d, \d, \d\] tensor", done.stdout)


def test_every_file_and_verb_that_the_pages_name_exists() -> None:
    from ray_app.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    verbs |= {group.name or group.typer_instance.info.name for group in app.registered_groups}
    for page in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "datasets/README.md", "tune/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert ((ROOT / page).parent / link).exists(), f"{page} links to {link}"
        for verb in re.findall(r"(?m)(?:^ *|`|-- )ray-app ([a-z]+)", text):
            assert verb in verbs, f"{page} names the verb {verb}"
