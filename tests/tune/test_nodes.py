"""Nodes that die while a sweep runs, with what they hold: it ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_app.progress import Silent
from ray_app.tune.run import run
from tests.tune.specs import TINY, tiny

KILLS = 2
SWEEP = {"trials": 8, "train": {"epochs": 6, "batch_size": 20, "lr": 3e-3}}

# Nothing runs on the head: rows, trials and soups lie on the nodes that die.
NODES = """
import json, sys
from contextlib import contextmanager
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from ray_app.session import quiet, session
from ray_app.tune.run import run
from tests.tune.specs import tiny

quiet()
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
killed = []

class Killer:
    def say(self, text): ...
    @contextmanager
    def work(self, title, total):
        self.title = title
        yield self
    def advance(self, done=1, note=""):
        if self.title != "sweep" or len(killed) == int(sys.argv[3]):
            return
        # Both nodes are busy; each in its turn.
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
        nodes.append(cluster.add_node(num_cpus=2))
        killed.append(1)

with session(cluster.address):
    made = run(tiny(**json.loads(sys.argv[1])), Path(sys.argv[2]), Killer())
cluster.shutdown()
print(json.dumps([len(killed), made.leaderboard.to_pydict(), made.chosen.ingredients, made.bundle.version]))
"""


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_session")
def test_nodes_that_die_change_nothing(tmp_path: Path) -> None:
    changes = {"sweep": {**TINY["sweep"], **SWEEP}}
    expected = run(tiny(**changes), tmp_path / "undisturbed", Silent())
    command = [sys.executable, "-c", NODES, json.dumps(changes), str(tmp_path / "out"), str(KILLS)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    killed, leaderboard, ingredients, version = json.loads(done.stdout.splitlines()[-1])
    assert killed == KILLS
    assert leaderboard == expected.leaderboard.to_pydict()
    assert (ingredients, version) == (expected.chosen.ingredients, expected.bundle.version)
