"""The Python files of installed packages, as rows of text: found and parsed, never imported."""

import ast
import os
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from ray_app.data.arrow import objects
from ray_app.data.sources import Read, Rejected, Source, Unit, digest, unit_id
from ray_app.errors import DataError

# Tests are half of many a package, and say little.
_LEFT_OUT = ("__pycache__", "tests")
Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class _Module:
    package: str
    name: str
    path: str
    size: int


class Installed(Source):
    """Rows of text from the files of packages, their tests left out, each labelled by its package.

    Args:
        packages: Top-level names as one would import them, in the order of their labels' numbers.
        modules: Only these modules, and what is below them; None: all.
        min_chars: Shorter texts are left out.
        max_chars: Longer texts are cut; None: they stay whole.
    """

    bytes_per_row: ClassVar[int]
    """Of a package's code for each row, about; a unit holds whole files, so it need not be exact."""

    def __init__(
        self,
        *,
        packages: Sequence[str],
        modules: Sequence[str] | None = None,
        min_chars: int = 80,
        max_chars: int | None = 4000,
    ) -> None:
        for option, value in (("packages", packages), ("modules", modules)):
            if value is not None and (isinstance(value, str) or not all(isinstance(v, str) for v in value)):
                raise ValueError(f"{option} must be a list of names, got {value!r}")
        if not packages or len(set(packages)) < len(packages):
            raise ValueError(f"packages must be a list of different names, got {list(packages)!r}")
        if nested := [name for name in packages if "." in name]:
            raise ValueError(f"packages has {nested[0]!r}; name the package, and the part in `modules`")
        if min_chars < 1 or (max_chars is not None and max_chars < min_chars):
            raise ValueError(
                f"expected 1 <= min_chars <= max_chars, got min_chars={min_chars!r}, max_chars={max_chars!r}"
            )
        self.packages = list(packages)
        self.modules = list(modules) if modules is not None else None
        self.min_chars = min_chars
        self.max_chars = max_chars

    @property
    def columns(self) -> Sequence[str]:
        """The text, its package as number and name, and where it stands."""
        return ["text", "label", "package", "module", "name"]

    @property
    def labels(self) -> Sequence[str]:
        """The packages."""
        return self.packages

    def fingerprint(self) -> str:
        """Return a hash of the options, the packages' versions and their files' sizes."""
        return digest(
            self.packages,
            self.modules,
            self.min_chars,
            self.max_chars,
            [_version(package) for package in self.packages],
            _sizes(self._files),
        )

    def units(self, rows_per_unit: int) -> list[Unit]:
        """Divide the sorted files; none is read."""
        found: list[Unit] = []
        start = size = 0
        for stop, module in enumerate(self._files, 1):
            size += module.size
            if size >= rows_per_unit * self.bytes_per_row or stop == len(self._files):
                found.append(
                    Unit(
                        unit_id("modules", start, stop),
                        None,
                        start,
                        stop,
                        digest(_version(module.package), _sizes(self._files[start:stop])),
                        rows=min(rows_per_unit, max(1, size // self.bytes_per_row)),
                    )
                )
                start, size = stop, 0
        return found

    def read(self, unit: Unit) -> Read:
        """Return the texts of a unit's files; a file that cannot be parsed is one rejected row."""
        files = self._files[unit.start : unit.stop]
        if not files or digest(_version(files[-1].package), _sizes(files)) != unit.fingerprint:
            raise DataError(
                f"{', '.join(self.packages)}: another version is installed than the run was planned with;"
                " use one environment on all machines"
            )
        rows: list[tuple[str, str, _Module, str]] = []
        rejected: list[Rejected] = []
        for module in files:
            try:
                content = Path(module.path).read_text(encoding="utf-8")
                tree = _parsed(content)
            except (OSError, ValueError, SyntaxError, RecursionError) as error:
                rejected.append(Rejected(module.name, f"cannot be parsed ({error})"))
                continue
            seen: dict[str, int] = {}
            for name, text in self._texts(tree, content):
                # The same name may be defined twice in a module, under an `if` for instance.
                seen[name] = seen.get(name, 0) + 1
                again = f"#{seen[name]}" if seen[name] > 1 else ""
                if len(text) >= self.min_chars:
                    rows.append((f"{module.name}:{name}{again}", text[: self.max_chars], module, name))
        numbers = {package: number for number, package in enumerate(self.packages)}
        batch = {
            "row_id": objects([row_id for row_id, *_ in rows]),
            "text": objects([text for _, text, *_ in rows]),
            "label": np.array([numbers[module.package] for *_, module, _ in rows], dtype=np.int64),
            "package": objects([module.package for *_, module, _ in rows]),
            "module": objects([module.name for *_, module, _ in rows]),
            "name": objects([f"{module.name}.{name}".rstrip(".") for *_, module, name in rows]),
        }
        return Read(batch, rejected)

    def __getstate__(self) -> dict[str, Any]:
        """Travel without paths: on another machine the packages may lie elsewhere."""
        return {key: value for key, value in vars(self).items() if key != "_files"}

    @abstractmethod
    def _texts(self, tree: ast.Module, content: str) -> Iterator[tuple[str, str]]:
        """Return names within a module (empty: the module itself), and texts."""

    @cached_property
    def _files(self) -> list[_Module]:
        found = [module for package in self.packages for module in _modules(package)]
        if self.modules is not None:
            below = tuple(f"{name}." for name in self.modules)
            found = [module for module in found if f"{module.name}.".startswith(below)]
        if not found:
            raise DataError(f"{', '.join(self.modules or self.packages)}: no such modules; check the names")
        return found


def definitions(body: Sequence[ast.stmt], within: str = "") -> Iterator[tuple[str, Definition]]:
    """Return the classes and functions that statements define, however deep, with qualified names."""
    for node in body:
        if isinstance(node, Definition):
            name = f"{within}{node.name}"
            yield name, node
            yield from definitions(node.body, f"{name}.")
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from definitions(getattr(node, part, ()), within)
        for handler in getattr(node, "handlers", ()):
            yield from definitions(handler.body, within)


def _parsed(content: str) -> ast.Module:
    with warnings.catch_warnings():
        # Other people's escapes are not our concern.
        warnings.simplefilter("ignore")
        return ast.parse(content)


def _modules(package: str) -> list[_Module]:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise DataError(f"{package}: no such package is installed here; install it, or name another")
    found: list[_Module] = []
    for root in spec.submodule_search_locations or []:
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if name.isidentifier() and name not in _LEFT_OUT)
            within = ".".join([package, *Path(folder).relative_to(root).parts])
            for path in (Path(folder, file) for file in files if file.endswith(".py")):
                if path.stem.isidentifier():
                    name = within if path.stem == "__init__" else f"{within}.{path.stem}"
                    found.append(_Module(package, name, str(path), path.stat().st_size))
    if not spec.submodule_search_locations and spec.origin and spec.origin.endswith(".py"):
        found.append(_Module(package, package, spec.origin, Path(spec.origin).stat().st_size))
    return sorted(found, key=lambda module: (module.name, module.path))


def _sizes(modules: Sequence[_Module]) -> list[tuple[str, int]]:
    return [(module.name, module.size) for module in modules]


@cache
def _version(package: str) -> str:
    names = packages_distributions().get(package, [])
    return version(names[0]) if names else ""
