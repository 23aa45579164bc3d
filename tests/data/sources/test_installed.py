"""The documentation and the code of packages, against what importing them says."""

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_app import registry
from ray_app.data.dataset import open_dataset
from ray_app.data.sources import Source
from ray_app.errors import DataError, SpecError
from ray_app.spec import Method
from ray_app.spec.dataset import DatasetSpec


def source(name: str, *packages: str, **options: Any) -> Source:
    return registry.build("sources", name, {"packages": list(packages), **options})


def rows(source: Source) -> dict[str, dict[str, Any]]:
    found = {}
    for unit in source.units(10_000):
        batch = source.read(unit).batch
        for row, row_id in enumerate(batch["row_id"]):
            found[row_id] = {name: column[row] for name, column in batch.items()}
    return found


def test_docstrings_are_those_of_the_imported_objects() -> None:
    read = rows(source("docstrings", "email", "json", modules=["json", "email.message"], max_chars=None))
    for row_id in ("json:", "json.decoder:JSONDecoder.raw_decode", "email.message:Message.get_params"):
        module, _, name = row_id.partition(":")
        found = importlib.import_module(module)
        for part in name.split(".") if name else []:
            found = getattr(found, part)
        assert read[row_id]["text"] == inspect.getdoc(found)
        assert read[row_id]["name"] == f"{module}.{name}".rstrip(".")
        assert read[row_id]["label"] == ["email", "json"].index(read[row_id]["package"])
    assert all(row["module"] == "email.message" or row["package"] == "json" for row in read.values())


def test_sources_are_what_inspect_returns() -> None:
    read = rows(source("sources", "dataclasses", min_chars=1, max_chars=None))
    module = importlib.import_module("dataclasses")
    for name in ("field", "_process_class", "Field", "_recursive_repr"):
        assert read[f"dataclasses:{name}"]["text"] + "\n" == inspect.getsource(getattr(module, name))


def test_lengths_are_bounded_and_a_broken_file_costs_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "made_up_package"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text('raise ImportError("never imported")\n')
    (package / "good.py").write_text(
        'def f():\n    """Twelve chars"""\nif True:\n    def f():\n        r"""A longer \\docstring."""\n'
    )
    (package / "old.py").write_text("print 'Python 2'\n")
    (package / "tests" / "test_x.py").write_text('"""A docstring of tests"""')
    monkeypatch.syspath_prepend(str(tmp_path))
    made = source("docstrings", "made_up_package", min_chars=12, max_chars=16)
    read = made.read(made.units(9)[0])
    assert read.batch["row_id"].tolist() == ["made_up_package.good:f", "made_up_package.good:f#2"]
    assert read.batch["text"].tolist() == ["Twelve chars", "A longer \\docstr"]
    assert [bad.row_id for bad in read.rejected] == ["made_up_package.old"]
    assert "made_up_package" not in sys.modules
    planned = made.units(9)[0]
    (package / "good.py").write_text("")
    with pytest.raises(DataError, match="another version is installed"):
        source("docstrings", "made_up_package").read(planned)


def test_a_spec_reads_them() -> None:
    method = Method(name="docstrings", options={"packages": ["json"]})
    batch = open_dataset(DatasetSpec(name="json", source=method)).read(limit=3)
    assert all(len(text) >= 80 for text in batch["text"])
    assert batch["label"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packages": "json"}, "packages must be a list of names"),
        ({"packages": []}, "must be a list of different names"),
        ({"packages": ["json", "json"]}, "must be a list of different names"),
        ({"packages": ["os.path"]}, "name the package, and the part in `modules`"),
        ({"packages": ["json"], "min_chars": 9, "max_chars": 8}, "min_chars <= max_chars"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        registry.build("sources", "docstrings", options)


def test_what_is_not_installed_is_told() -> None:
    with pytest.raises(DataError, match="no such package is installed"):
        source("docstrings", "surely_not_installed").units(5)
    with pytest.raises(DataError, match="no such modules"):
        source("docstrings", "json", modules=["json.nowhere"]).units(5)
