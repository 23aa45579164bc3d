"""The papers' common ground: what a file of them is, and how they are run side by side."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ray_app import papers, registry
from ray_app.errors import RunError, SpecError
from ray_app.papers import Outcome, check_slug, described, lead, reaches, run, slugs, stays
from ray_app.progress import Silent

PAPERS = {paper["slug"]: paper for paper in described()}


def test_every_file_is_listed() -> None:
    folder = Path(papers.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert set(slugs()) == set(PAPERS) == files - {"run"}
    assert PAPERS


@pytest.mark.parametrize("slug", PAPERS)
def test_a_paper_says_what_it_is(slug: str) -> None:
    paper = PAPERS[slug]
    assert paper["title"]
    assert 1950 < paper["year"] < 2100
    assert paper["url"].startswith("https://")
    names = [claim["name"] for claim in paper["claims"]]
    assert names
    assert len(set(names)) == len(names)
    assert all(claim["statement"].endswith(".") for claim in paper["claims"])


@pytest.mark.parametrize("slug", PAPERS)
def test_its_methods_are_there(slug: str) -> None:
    methods = PAPERS[slug]["methods"]
    assert methods
    for method in methods:
        family, _, name = method.partition("/")
        assert name in registry.names(family), method


@pytest.mark.parametrize("slug", PAPERS)
def test_the_literals_are_what_importing_gives(slug: str) -> None:
    module = importlib.import_module(f"ray_app.papers.{slug}")
    assert module.PAPER.title == PAPERS[slug]["title"]
    assert [claim.name for claim in module.PAPER.claims] == [c["name"] for c in PAPERS[slug]["claims"]]
    with pytest.raises(SpecError, match=f"^{slug}: "):
        module.reproduce("full")


def test_listing_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from ray_app.papers import described; described();"
        "print([name for name in ('torch', 'ray', 'numpy', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_slug_gets_its_nearest() -> None:
    check_slug(slugs()[0])
    with pytest.raises(SpecError, match=r"unknown paper 'nb_vs_rl'; did you mean 'nb_vs_lr'.*papers: "):
        check_slug("nb_vs_rl")


def test_a_claim_holds_by_its_mean_over_seeds() -> None:
    ahead = lead("a", [0.9, 0.7], [0.5, 0.5], least=0.3, seeds=range(2), details={"more": 1.0})
    assert ahead.held
    assert ahead.value == pytest.approx(0.8)
    assert ahead.baseline == pytest.approx(0.5)
    assert ahead.interval[0] < 0.3 < ahead.interval[1]
    assert (ahead.seeds, ahead.details) == ([0, 1], {"more": 1.0})
    assert not lead("a", [0.9, 0.7], [0.5, 0.5], least=0.31, seeds=range(2)).held
    assert lead("a", [0.9, 0.7], [0.8, 0.85], least=-0.03, seeds=range(2)).held
    assert reaches("a", [1, 3], least=2, seeds=range(2)).held
    assert not reaches("a", [1, 2.9], least=2, seeds=range(2)).held
    assert stays("a", [1, 3], most=2, seeds=range(2)).held
    assert not stays("a", [1, 3.1], most=2, seeds=range(2)).held


PAPER_FILE = """
from ray_app.papers import Claim, Outcome, Paper, Scale, reaches

PAPER = Paper(
    title="{slug}", year=2024, url="https://example.org", methods=[], claims=[Claim("big", "It is " "big.")]
)


def reproduce(scale: Scale) -> list[Outcome]:
    {body}
"""


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces the papers by made-up ones: slug → the body of its `reproduce`."""

    def use(**bodies: str) -> None:
        files = {slug: tmp_path / f"{slug}.py" for slug in bodies}
        for slug, path in files.items():
            path.write_text(PAPER_FILE.format(slug=slug, body=bodies[slug]), encoding="utf-8")

        # Defined here, so that it travels to a worker by value; what it calls there is the real thing.
        def run_one(slug: str, scale: papers.Scale) -> list[Outcome] | str:
            import importlib.util
            import sys

            from ray_app.papers import run as real

            spec = importlib.util.spec_from_file_location(f"ray_app.papers.{slug}", files[slug])
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[spec.name] = module
            return real._run_one(slug, scale)

        monkeypatch.setattr(papers, "_files", lambda: files)
        monkeypatch.setattr(run, "_run_one", run_one)

    return use


HOLDS = "return [reaches('big', [3.0, 5.0], least=4, seeds=[0, 1], details={'width': 7.0})]"
FAILS = "return [reaches('big', [3.0, 4.0], least=4, seeds=[0, 1])]"


def test_a_paper_that_raises_takes_no_other_with_it(
    ray_session: None, made_up: Callable[..., None], tmp_path: Path
) -> None:
    made_up(large=HOLDS, small=FAILS, broken="raise ValueError('no such thing')")
    result = run.reproduce([], scale="quick", folder=tmp_path / "out", reporter=Silent())
    assert list(result.outcomes) == ["large", "small"]
    assert "ValueError: no such thing (broken.py:" in result.errors["broken"]
    columns, rows = result.summary()
    verdicts = {row[0]: dict(zip(columns, row, strict=True))["verdict"] for row in rows}
    assert verdicts == {"large": "held", "small": "NOT HELD", "broken": "ERROR"}
    page = result.report.read_text(encoding="utf-8")
    assert "1 of 2 claims of 2 papers held" in page
    assert "ERROR" in page
    assert "It is big." in page
    assert "width" in page


def test_records_are_those_of_the_table(
    ray_session: None, made_up: Callable[..., None], tmp_path: Path
) -> None:
    made_up(large=HOLDS, small=FAILS)
    result = run.reproduce(["small", "large", "small"], scale="quick", folder=tmp_path, reporter=Silent())
    table = pq.read_table(tmp_path / "outcomes.parquet").to_pylist()
    assert [row["paper"] for row in table] == ["small", "large"]
    for row, record in zip(table, result.records(), strict=True):
        assert row == {**record, "details": str(record["details"])}
    assert table[1]["value"] == 4
    assert table[1]["held"]
    assert table[1]["baseline"] is None


def test_when_no_paper_runs_to_its_end_the_first_error_is_told(
    ray_session: None, made_up: Callable[..., None], tmp_path: Path
) -> None:
    made_up(broken="raise ValueError('no such thing')")
    with pytest.raises(RunError, match=r"no paper ran to its end.*no such thing"):
        run.reproduce(["broken"], scale="quick", folder=tmp_path / "out", reporter=Silent())
    assert not (tmp_path / "out").exists()


def test_wrong_requests_are_one_line_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="unknown paper 'nothing'"):
        run.reproduce(["nothing"], scale="quick", folder=tmp_path, reporter=Silent())
    for folder in ("", str(tmp_path / "nowhere")):
        monkeypatch.setenv(run.REFERENCE, folder)
        with pytest.raises(RunError) as caught:
            run.reproduce([], scale="reference", folder=tmp_path, reporter=Silent())
        assert "\n" not in str(caught.value)
        assert f"RAY_APP_REFERENCE_DATA is {folder!r}" in str(caught.value)
    assert not list(tmp_path.iterdir())
