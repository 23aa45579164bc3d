"""What the tests share: one quiet Ray per run, and the reference data where it is."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# An encoder that only tests and benchmarks have (it waits, or kills its process) is a plug-in; Ray's workers
# look for it where this variable says.
PLUGINS = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "benchmarks" / "_plugins")]
os.environ["PYTHONPATH"] = os.pathsep.join([*PLUGINS, *filter(None, [os.environ.get("PYTHONPATH")])])
sys.path += [path for path in PLUGINS if path not in sys.path]

# Ray's workers run at nice 15 by default and starve beside the tests' own process.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for the whole run."""
    from ray_app.session import session

    with session(num_cpus=4):
        yield


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of public reference data; the test is skipped where there is none."""
    folder = os.environ.get("RAY_APP_REFERENCE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the public reference data: set RAY_APP_REFERENCE_DATA to its folder")
    return Path(folder)
