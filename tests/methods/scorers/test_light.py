"""Scorers of text cost nothing to construct: a build without an encoder loads neither torch nor Ray."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "sklearn", "scipy", "ray")
MADE = {
    "heuristics": "{}",
    "perplexity": "{'model': 'some/model'}",
    "hashed_text": "{}",
    "predictive_strength": "{'abilities': [0, 1], 'models': ['a', 'b']}",
    "membership": "{'model': 'some/model', 'kind': 'flora', 'base': 'another/model'}",
}


@pytest.mark.parametrize("name", MADE)
def test_constructing_loads_nothing_heavy(name: str) -> None:
    code = (
        "import sys; from ray_app import registry;"
        f"registry.build('scorers', {name!r}, {MADE[name]});"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
