"""What is loaded when: help and lists load no heavy library, so they answer at once."""

import subprocess
import sys

import pytest

# Seconds each, or hundreds of modules.
HEAVY = {
    "torch",
    "ray",
    "timm",
    "transformers",
    "sklearn",
    "pandas",
    "scipy",
    "matplotlib",
    "optuna",
    "fastapi",
}


def loaded(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after some code."""
    script = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\n"
        "print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def run(*arguments: str) -> str:
    return f"sys.argv = {['ray-app', *arguments]!r}; from ray_app.cli import main; main()"


@pytest.mark.parametrize(
    "code",
    [
        "import ray_app",
        "import ray_app.errors, ray_app.registry, ray_app.spec",
        run("--help"),
        run("--version"),
        run("tune", "--help"),
        run("methods"),
        run("methods", "detectors/mahalanobis", "--json"),
        run("papers", "--json"),
    ],
)
def test_light_commands_load_no_heavy_library(code: str) -> None:
    modules = loaded(code)
    assert "ray_app" in modules
    assert not modules & HEAVY


def test_help_loads_neither_numpy_nor_pydantic() -> None:
    assert not loaded(run("--help")) & {"numpy", "pydantic", "yaml"}


def test_the_probe_sees_what_is_loaded() -> None:
    assert {"ray_app", "numpy"} <= loaded("import ray_app, numpy")


def test_methods_and_metrics_do_without_ray() -> None:
    modules = loaded(
        "import ray_app.predictor, ray_app.metrics.detection, ray_app.methods.detectors.mahalanobis"
    )
    assert "torch" in modules
    assert "ray" not in modules
