"""From a name to a class: nearest names, missing options, plug-ins, and help that imports nothing."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from ray_app import registry
from ray_app.errors import SpecError
from ray_app.methods.detectors.knn import KNN


class Outside:
    """A method of somebody else's package."""

    def __init__(self, *, threshold: float, k: int = 3) -> None:
        if k < 1:
            raise ValueError(f"outside: k must be >= 1, got {k!r}")
        self.threshold, self.k = threshold, k


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed distribution that adds detectors/outside, a broken one, and one that is no class."""
    module = ModuleType("outside_package")
    module.Outside, module.number = Outside, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "outside_package", module)
    group = "ray_app.detectors"
    points = [
        EntryPoint("outside", "outside_package:Outside", group),
        EntryPoint("number", "outside_package:number", group),
        EntryPoint("gone", "no_such_package:Gone", group),
        EntryPoint("knn", "outside_package:Outside", group),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [p for p in points if p.group == group])
    registry._entry_points.cache_clear()
    yield
    monkeypatch.undo()
    registry._entry_points.cache_clear()


def test_a_name_is_a_file_with_one_class() -> None:
    assert registry.load("detectors", "knn") is KNN
    assert {"knn", "mahalanobis", "max_softmax", "energy"} <= set(registry.names("detectors"))
    assert not [name for family in registry.FAMILIES for name in registry.names(family) if name[0] == "_"]


@pytest.mark.parametrize(
    ("family", "name", "expected"),
    [
        ("detectors", "mahalanobs", "unknown method detectors/mahalanobs; did you mean 'mahalanobis'"),
        ("detectors", "zzzz", r"unknown method detectors/zzzz \(known: .*energy.*knn"),
        ("detector", "knn", "unknown family 'detector'; did you mean 'detectors'"),
        ("detectors", "_whitened", "unknown method detectors/_whitened"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(family: str, name: str, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        registry.load(family, name)
    with pytest.raises(SpecError, match=expected):
        registry.describe(family, name)


def test_options_are_checked_against_the_constructor() -> None:
    registry.check("detectors", "knn", {"k": 3})
    with pytest.raises(SpecError, match=r"detectors/knn has no option 'kk'; did you mean 'k'\? \(options: k"):
        registry.check("detectors", "knn", {"kk": 3})
    with pytest.raises(
        SpecError, match=r"encoders/timm needs the option 'model'; add it beside `name: timm`"
    ):
        registry.check("encoders", "timm", {})
    registry.check("encoders", "timm", {}, supplied=frozenset({"model"}))


def test_build_gives_what_is_written_and_what_the_engine_supplies(plugin: None) -> None:
    made = registry.build("detectors", "outside", {"threshold": 0.5}, k=7, encoder="not asked for")
    assert (made.threshold, made.k) == (0.5, 7)
    # What is written goes before what is supplied.
    assert registry.build("detectors", "outside", {"threshold": 0.5, "k": 2}, k=7).k == 2
    assert registry.build("detectors", "outside", None, threshold=1.0).threshold == 1.0


def test_a_value_that_the_constructor_refuses_is_one_line() -> None:
    with pytest.raises(SpecError, match=r"^knn: k must be") as caught:
        registry.build("detectors", "knn", {"k": 0})
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_plug_in_is_a_method_like_any_other(plugin: None) -> None:
    assert "outside" in registry.names("detectors")
    assert registry.load("detectors", "outside") is Outside
    with pytest.raises(SpecError, match="detectors/outside needs the option 'threshold'"):
        registry.build("detectors", "outside")
    with pytest.raises(SpecError, match=r"^outside: k must be >= 1, got 0$"):
        registry.build("detectors", "outside", {"threshold": 1, "k": 0})
    described = registry.describe("detectors", "outside")
    assert (described.cls, described.summary) == ("Outside", "plug-in outside_package:Outside")
    with pytest.raises(SpecError, match="did you mean 'outside'"):
        registry.load("detectors", "outsider")


def test_a_plug_in_hides_none_of_ours(plugin: None) -> None:
    assert registry.load("detectors", "knn") is KNN
    assert registry.names("detectors").count("knn") == 1


def test_a_broken_plug_in_is_one_line_and_breaks_only_itself(plugin: None) -> None:
    with pytest.raises(
        SpecError, match=r"detectors/number: entry point 'outside_package:number' is no class"
    ):
        registry.load("detectors", "number")
    with pytest.raises(
        SpecError, match=r"detectors/gone: its plug-in cannot be imported \(no_such_package:Gone"
    ):
        registry.load("detectors", "gone")
    assert registry.describe("detectors", "gone").cls == "Gone"


@pytest.mark.parametrize("family", registry.FAMILIES)
def test_every_method_is_described_as_its_constructor_is(family: str) -> None:
    for name in registry.names(family):
        described = registry.describe(family, name)
        if described.summary.startswith("plug-in "):
            continue  # what benchmarks bring
        options = registry.options(family, name)
        assert described.summary.endswith((".", ",", ")")) or len(described.summary) > 20, described
        assert described.doc
        assert set(described.options) == set(options)
        required = {key for key, parameter in options.items() if parameter.default is parameter.empty}
        assert {key for key, default in described.options.items() if default == "required"} == required


def test_describing_everything_imports_no_method() -> None:
    code = (
        "import sys; from ray_app import registry\n"
        "for f in registry.FAMILIES:\n"
        "    for n in registry.names(f): registry.describe(f, n)\n"
        "print([m for m in sys.modules if m.startswith('ray_app.methods.') and m.count('.') > 2], "
        "'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[] False\n", "")


def test_nearest_says_nothing_where_nothing_is_near() -> None:
    assert registry.nearest("qqq", ["alpha", "beta"]) == ""
    assert registry.nearest("alpa", {"alpha": 1, "beta": 2}) == "; did you mean 'alpha'?"
    assert registry.nearest("bet", ["beta", "betb"]) == "; did you mean 'betb' or 'beta'?"
