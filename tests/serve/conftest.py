"""Bundles that the serve engine's tests share."""

import pytest

from ray_app.bundle import Bundle
from tests.bundles import tiny


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One member, a head, two calibrated detectors; one of them looks at gradients."""
    detectors = {"max_softmax": {}, "mahalanobis": {"layers": "last", "noise": 0.001}}
    return tiny(tmp_path_factory.mktemp("one") / "bundle", detectors=detectors)


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Three members."""
    detectors = {"max_softmax": {}, "mahalanobis": {"layers": "last"}}
    return tiny(tmp_path_factory.mktemp("three") / "bundle", members=3, detectors=detectors)
