"""Twenty kills, of each kind of process that a build has: every row is there once each time."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ray_app.data.build import build
from ray_app.errors import RunError
from tests.data.rows import spec
from tests.processes import kill, model_processes

ROWS, UNIT = 1600, 20
ACTOR_KILLS, DRIVER_KILLS, NODE_KILLS = 10, 4, 6


def waiting(rows: int = ROWS, **options: Any) -> dict[str, Any]:
    """A build whose model takes its time, so that there is something to be killed in."""
    return {
        "name": "killed",
        "source": {"name": "generator", "generator": {"name": "textures", "size": 8}, "rows": rows},
        "encoder": {"name": "waiting", "seconds_per_row": 0.004, **options},
        "unit_rows": UNIT,
        "keep": [],
        "compute": {
            "executor": "ray",
            "actors": 2,
            "batch_size": UNIT,
            "dtype": "float32",
            "batch_tokens": 1,
        },
    }


def rows_of(folder: Path) -> Counter[str]:
    return Counter(
        row
        for path in (folder / "data").glob("part-*.parquet")
        for row in pq.read_table(path, columns=["row_id"])["row_id"].to_pylist()
    )


def committed(folder: Path) -> int:
    return len(list((folder / "data").glob("part-*")))


def all_once(folder: Path, rows: int = ROWS) -> bool:
    found = rows_of(folder)
    hidden = list(folder.rglob(".writing-*"))
    return len(found) == rows and set(found.values()) == {1} and not hidden


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_session")
def test_model_processes_that_are_killed_lose_and_double_nothing(tmp_path: Path) -> None:
    chance = random.Random(0)  # noqa: S311
    killed: list[int] = []

    class Killer:
        next = 3

        def say(self, text: str) -> None: ...

        @contextmanager
        def work(self, title: str, total: float | None) -> Any:
            yield self

        def advance(self, done: float = 1, note: str = "") -> None:
            self.next -= int(done)
            if self.next > 0 or len(killed) >= ACTOR_KILLS:
                return
            if found := model_processes():
                killed.append(chance.choice(found))
                kill(killed[-1])
                self.next = chance.randint(1, 6)

    result = build(spec(**waiting()), tmp_path / "out", reporter=Killer())
    assert len(killed) == ACTOR_KILLS
    assert result.rows == ROWS
    assert all_once(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_session")
def test_drivers_that_are_killed_lose_and_double_nothing(tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    (tmp_path / "spec.json").write_text(json.dumps(waiting()))
    program = (
        "import sys\n"
        "from ray_app.data.build import build\n"
        "build(sys.argv[1], sys.argv[2], address=sys.argv[3])\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "spec.json"), str(tmp_path / "out"), address]
    chance = random.Random(1)  # noqa: S311
    seen: dict[Path, int] = {}
    for turn in range(DRIVER_KILLS):
        wanted = committed(tmp_path / "out") + chance.randint(1, 9)
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        while process.poll() is None and committed(tmp_path / "out") < wanted:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "out" / "dataset.json").exists(), f"kill {turn} came too late"
        assert set(rows_of(tmp_path / "out").values()) == {1}
        # What was finished is neither lost nor written again.
        assert all(path.stat().st_mtime_ns == at for path, at in seen.items())
        seen = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "data").glob("part-*")}
    result = build(spec(**waiting()), tmp_path / "out")
    assert result.resumed >= len(seen)
    assert all_once(tmp_path / "out")


NODES = """
import json, random, sys
from contextlib import contextmanager
from pathlib import Path
from ray.cluster_utils import Cluster
from ray_app.data.build import build
from ray_app.session import quiet

quiet()
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
chance, killed = random.Random(2), []

class Killer:
    next = 3
    def say(self, text): ...
    @contextmanager
    def work(self, title, total):
        yield self
    def advance(self, done=1, note=""):
        self.next -= int(done)
        if self.next > 0 or len(killed) >= int(sys.argv[3]):
            return
        victim = nodes.pop(chance.randrange(len(nodes)))
        cluster.remove_node(victim, allow_graceful=False)
        nodes.append(cluster.add_node(num_cpus=2))
        killed.append(1)
        self.next = chance.randint(2, 8)

result = build(sys.argv[1], sys.argv[2], reporter=Killer(), address=cluster.address)
cluster.shutdown()
print(json.dumps({"killed": len(killed), "rows": result.rows}))
"""


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_nodes_that_are_killed_lose_and_double_nothing(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(waiting()))
    command = [
        sys.executable,
        "-c",
        NODES,
        str(tmp_path / "spec.json"),
        str(tmp_path / "out"),
        str(NODE_KILLS),
    ]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"killed": NODE_KILLS, "rows": ROWS}
    assert all_once(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_session")
def test_a_row_that_kills_its_process_each_time_ends_the_run_in_one_line(tmp_path: Path) -> None:
    from ray_app.data.dataset import open_dataset

    small = spec(**waiting(rows=100))
    image = open_dataset(small).read()["image"][70]
    deadly = float(image.mean(dtype="float32"))
    with pytest.raises(RunError, match=r"died 4 times on the unit textures-\S+0000000060-") as caught:
        build(spec(**waiting(rows=100, deadly=deadly)), tmp_path / "out")
    assert "\n" not in str(caught.value)
    # What was finished beside it is kept.
    assert set(rows_of(tmp_path / "out").values()) <= {1}
