"""All papers at quick scale, once: side by side on Ray, as the command does it."""

from collections.abc import Mapping, Sequence

import pytest

from ray_app.papers import Outcome
from ray_app.papers.run import reproduce
from ray_app.progress import Silent


@pytest.fixture(scope="session")
def reproduced(
    ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Sequence[Outcome]]:
    """Slug → the outcomes of its claims."""
    result = reproduce([], scale="quick", folder=tmp_path_factory.mktemp("papers"), reporter=Silent())
    assert result.errors == {}
    return result.outcomes
