"""A sweep whose driver is killed in the middle ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ray_app.progress import Silent
from ray_app.tune.ledger import Ledger
from ray_app.tune.run import TuneRun, run
from tests.tune.specs import TINY, tiny

DEADLINE_S = 150
POLL_S = 0.05


def statuses(folder: Path) -> list[str]:
    """Return what the trials' records say; a record is replaced whole, so it can always be read."""
    return [json.loads(path.read_text())["status"] for path in sorted(folder.glob("trials/*/trial.json"))]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_killed_and_run_again_the_leaderboard_is_the_same(made: TuneRun, tmp_path: Path) -> None:
    spec, folder = tmp_path / "tiny.yaml", tmp_path / "out"
    spec.write_text(yaml.safe_dump(TINY))
    command = [
        sys.executable,
        "-c",
        "from ray_app.cli import main; main()",
        "tune",
        str(spec),
        "--out",
        str(folder),
    ]
    log = (tmp_path / "log").open("wb")
    driver = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    end = time.monotonic() + DEADLINE_S
    while "finished" not in statuses(folder):
        assert driver.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < end, "no trial finished in time"
        time.sleep(POLL_S)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    at_kill = statuses(folder)
    assert at_kill.count("finished") < 3, "the kill came too late to test anything"
    assert not (folder / "leaderboard.parquet").exists()
    kept = {trial.name: trial for trial in Ledger(folder / "trials").trials() if trial.status == "finished"}

    again = run(tiny(), folder, Silent())

    assert again.leaderboard.equals(made.leaderboard)
    assert again.chosen.ingredients == made.chosen.ingredients
    assert again.bundle.version == made.bundle.version
    for trial in Ledger(folder / "trials").trials():
        if trial.name in kept:
            assert trial == kept[trial.name]
