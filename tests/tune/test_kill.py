"""Ten kills of a sweep, of its driver and of its trials: it ends as if nothing had happened."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from ray_app.progress import Silent
from ray_app.tune.ledger import Ledger, Trial
from ray_app.tune.run import run
from tests.processes import descendants, kill
from tests.tune.specs import TINY, tiny

DRIVER_KILLS, TRIAL_KILLS = 3, 7
DEADLINE_S = 400
POLL_S = 0.05
# So many that the last kill still finds something to kill.
SWEEP = {"trials": 14, "train": {"epochs": 6, "batch_size": 20, "lr": 3e-3}, "save_every_s": 0}


def records(folder: Path) -> dict[str, Trial]:
    """Return the trials by name; a record is replaced whole, so it can always be read."""
    return {trial.name: trial for trial in Ledger(folder / "trials").trials()}


def timeless(trial: Trial) -> dict[str, object]:
    """What two runs of a trial have in common: all but how long they took, and how often it was tried."""
    return {key: value for key, value in vars(trial).items() if key not in ("seconds", "tries")}


def trial_process(driver: int) -> int | None:
    """Return a process that trains for a driver, if there is one."""
    for pid in sorted(descendants(driver)):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        except OSError:
            continue
        if command.startswith("ray::ImplicitFunc") or "run_trial" in command:
            return pid
    return None


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_session")
def test_killed_and_run_again_the_leaderboard_is_the_same(tmp_path: Path) -> None:
    undisturbed = run(tiny(sweep={**TINY["sweep"], **SWEEP}), tmp_path / "undisturbed", Silent())
    expected = records(tmp_path / "undisturbed")
    spec, folder = tmp_path / "tiny.yaml", tmp_path / "out"
    spec.write_text(yaml.safe_dump({**TINY, "sweep": {**TINY["sweep"], **SWEEP}}))
    command = [
        sys.executable,
        "-c",
        "from ray_app.cli import main; main()",
        "tune",
        str(spec),
        "--out",
        str(folder),
    ]
    chance = random.Random(0)  # noqa: S311
    kinds = ["driver"] * DRIVER_KILLS + ["trial"] * TRIAL_KILLS
    chance.shuffle(kinds)
    log = tmp_path / "log"
    end = time.monotonic() + DEADLINE_S

    def start() -> "subprocess.Popen[bytes]":
        with log.open("ab") as file:
            return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)

    def told() -> str:
        return log.read_text()[-2000:]

    driver = start()
    for kind in kinds:
        before = len([trial for trial in records(folder).values() if trial.curve])
        victim: int | None = None
        while victim is None:
            assert driver.poll() is None, f"it ended before all kills: {told()}"
            assert time.monotonic() < end, f"no trial ran in time: {told()}"
            # Something was done since the last kill, or the next would only hit the start again.
            if len([trial for trial in records(folder).values() if trial.curve]) > before:
                victim = trial_process(driver.pid)
            time.sleep(POLL_S)
        time.sleep(chance.uniform(0, 0.5))
        if kind == "driver":
            os.kill(driver.pid, signal.SIGKILL)
            driver.wait()
        else:
            kill(victim)
        finished = {name: trial for name, trial in records(folder).items() if trial.status == "finished"}
        for name, trial in finished.items():
            assert timeless(trial) == timeless(expected[name])
        if kind == "driver":
            driver = start()
    assert driver.wait(timeout=max(1.0, end - time.monotonic())) == 0, told()

    disturbed = run(tiny(sweep={**TINY["sweep"], **SWEEP}), folder, Silent())
    assert disturbed.leaderboard.equals(undisturbed.leaderboard)
    assert disturbed.chosen.ingredients == undisturbed.chosen.ingredients
    assert disturbed.bundle.version == undisturbed.bundle.version


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_session")
def test_a_trial_whose_process_dies_each_time_fails_with_its_reason_and_the_sweep_goes_on(
    tmp_path: Path,
) -> None:
    folder, ended = tmp_path / "out", threading.Event()

    def deadly() -> None:
        while not ended.wait(POLL_S):
            one = Ledger(folder / "trials").read("00001")
            if one is not None and one.status == "running" and (pid := trial_process(os.getpid())):
                kill(pid)

    killer = threading.Thread(target=deadly)
    killer.start()
    try:
        spec = tiny(sweep={**TINY["sweep"], **SWEEP, "trials": 3, "concurrent": 1})
        made = run(spec, folder, Silent())
    finally:
        ended.set()
        killer.join()
    trials = records(folder)
    assert [trial.status for _, trial in sorted(trials.items())] == ["finished", "failed", "finished"]
    reason = r"the worker was lost 3 times: The actor is dead.*; out of memory\?$"
    assert re.match(reason, trials["00001"].error)
    assert made.leaderboard.num_rows == 3
