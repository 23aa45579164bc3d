import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_app.data import lease
from ray_app.data.build import build
from ray_app.data.lease import FILE, leased
from ray_app.errors import DataError
from ray_app.storage import Place
from tests.data.rows import digits


def test_two_runs_on_one_output_refuse_each_other(tmp_path: Path) -> None:
    with (
        leased(Place.of(tmp_path)),
        pytest.raises(DataError, match=rf"process {os.getpid()} on .* is building there"),
    ):
        build(digits(compute={"executor": "local"}), tmp_path)
    assert build(digits(compute={"executor": "local"}), tmp_path).rows == 1797
    assert not (tmp_path / FILE).exists()


def test_a_lease_of_a_dead_process_is_void_at_once(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from ray_app.data.lease import leased\n"
        "from ray_app.storage import Place\n"
        "with leased(Place.of(sys.argv[1])):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)])
    assert done.returncode == -9
    assert (tmp_path / FILE).exists()
    with leased(Place.of(tmp_path)):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()


def test_a_lease_of_another_host_is_void_when_it_is_no_longer_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place.of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(lease, "_host", lambda: "elsewhere")
        with leased(place):
            held = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(held)
    with pytest.raises(DataError, match="on elsewhere is building there"), leased(place):
        pass
    monkeypatch.setattr(lease, "VOID_AFTER_S", -1.0)
    with leased(place):
        pass


def test_a_lease_is_renewed_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED_S", 0.01)
    with leased(Place.of(tmp_path)):
        first = (tmp_path / FILE).read_bytes()
        for _ in range(2000):
            if (tmp_path / FILE).read_bytes() != first:
                break
            os.sched_yield()
        assert json.loads((tmp_path / FILE).read_bytes())["renewed"] > json.loads(first)["renewed"]


def test_damage_in_a_lease_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"{half")
    with leased(Place.of(tmp_path)):
        pass
