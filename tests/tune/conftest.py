"""What the tests of the tune engine share: one run, made once."""

import pytest

from ray_app.progress import Silent
from ray_app.tune.run import TuneRun, run
from tests.tune.specs import tiny


@pytest.fixture(scope="session")
def made(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> TuneRun:
    """A finished run of the tiny spec."""
    return run(tiny(), tmp_path_factory.mktemp("run") / "out", Silent())
