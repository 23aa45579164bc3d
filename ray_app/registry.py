"""From a name in YAML to a class: `heads/logistic` is the one public class of `methods/heads/logistic.py`.

There is no list to keep in step: a family is a folder, a method is a file. Third parties add theirs by an
entry point in the group `ray_app.<family>`, whose name is the method's name and whose value is
`module:Class`. Listing and describing parse the source and import nothing, so that help stays fast.
"""

import ast
import difflib
import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ray_app.errors import SpecError

FAMILIES: Mapping[str, str] = {
    **{
        family: f"ray_app.methods.{family}"
        for family in (
            "transforms",
            "generators",
            "encoders",
            "scorers",
            "selectors",
            "models",
            "objectives",
            "adapters",
            "combiners",
            "heads",
            "detectors",
            "diagnostics",
        )
    },
    "sources": "ray_app.data.sources",
}
"""Family → the package whose files are its methods."""


@dataclass(frozen=True)
class Described:
    """What help shows of a method, read from its source without importing it."""

    family: str
    name: str
    cls: str
    summary: str
    """First line of the module's docstring."""
    doc: str
    """The class docstring, then the module's."""
    options: Mapping[str, str]
    """Option → its default as written, or `required`."""


def names(family: str) -> list[str]:
    """Return every known method of a family, sorted, the third parties' included."""
    return sorted({*_files(family), *_entry_points(family)})


def load(family: str, name: str) -> type[Any]:
    """Return the class of a method; the import happens here.

    Raises:
        SpecError: The family or the name is unknown; the message has the nearest known names.
    """
    files = _files(family)
    if name in files:
        module = importlib.import_module(f"{FAMILIES[family]}.{name}")
        return _only_class(module.__name__, vars(module))
    if name in (plugins := _entry_points(family)):
        try:
            loaded = plugins[name].load()
        except (ImportError, AttributeError) as error:
            raise SpecError(
                f"{family}/{name}: its plug-in cannot be imported ({plugins[name].value}: {error}); "
                "install or mend its package"
            ) from error
        if not isinstance(loaded, type):
            raise SpecError(
                f"{family}/{name}: entry point {plugins[name].value!r} is no class; it must name one"
            )
        return loaded
    known = names(family)
    raise SpecError(
        f"unknown method {family}/{name}{nearest(name, known)} (known: {', '.join(known) or 'none'})"
    )


def options(family: str, name: str) -> dict[str, inspect.Parameter]:
    """Return the keyword options of a method's constructor."""
    return _parameters(load(family, name))


def check(
    family: str, name: str, given: Mapping[str, Any], *, supplied: frozenset[str] = frozenset()
) -> None:
    """Refuse options that the method does not have, and the absence of those it requires.

    Args:
        family: The method's family.
        name: The method's name.
        given: The options as written in YAML.
        supplied: Options that the engine passes itself (an encoder, say); they need not be written.
    """
    known = options(family, name)
    for key in given:
        if key not in known:
            listed = ", ".join(known) or "none"
            raise SpecError(f"{family}/{name} has no option {key!r}{nearest(key, known)} (options: {listed})")
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in given and key not in supplied:
            raise SpecError(f"{family}/{name} needs the option {key!r}; add it beside `name: {name}`")


def build(family: str, name: str, given: Mapping[str, Any] | None = None, **supplied: Any) -> Any:
    """Construct a method from the options in YAML, plus those that the engine supplies and the method has.

    Raises:
        SpecError: Unknown method or option, missing option, or a value that the constructor refuses.
    """
    given = dict(given or {})
    cls = load(family, name)
    known = _parameters(cls)
    extra = {key: value for key, value in supplied.items() if key in known and key not in given}
    check(family, name, given, supplied=frozenset(extra))
    try:
        return cls(**given, **extra)
    except (ValueError, TypeError) as error:
        message = str(error)
        raise SpecError(message if message.startswith(name) else f"{family}/{name}: {message}") from error


def describe(family: str, name: str) -> Described:
    """Return what the docstrings and the signature say, without importing the method."""
    path = _files(family).get(name)
    if path is None:
        if name not in (plugins := _entry_points(family)):
            load(family, name)  # raises with the nearest names
        value = plugins[name].value
        return Described(family, name, value.rpartition(":")[2], f"plug-in {value}", "", {})
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module_doc = ast.get_docstring(tree) or ""
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))
    doc = "\n\n".join(filter(None, [ast.get_docstring(cls), module_doc]))
    return Described(
        family, name, cls.name, module_doc.partition("\n")[0], doc, dict(_written_options(cls, tree))
    )


def nearest(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """Return `; did you mean 'x'?`, or nothing when no known word is near."""
    close = difflib.get_close_matches(word, list(known), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


@cache
def _files(family: str) -> dict[str, Path]:
    if family not in FAMILIES:
        raise SpecError(
            f"unknown family {family!r}{nearest(family, FAMILIES)} (families: {', '.join(FAMILIES)})"
        )
    # find_spec imports the parents only; those hold no work.
    spec = find_spec(FAMILIES[family])
    folders = list(spec.submodule_search_locations or []) if spec else []
    return {
        path.stem: path
        for folder in folders
        for path in Path(folder).glob("*.py")
        if not path.stem.startswith("_")
    }


@cache
def _entry_points(family: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"ray_app.{family}")}


def _only_class(module: str, namespace: Mapping[str, Any]) -> type[Any]:
    public = [
        value
        for key, value in namespace.items()
        if isinstance(value, type) and value.__module__ == module and not key.startswith("_")
    ]
    if len(public) != 1:
        raise TypeError(
            f"{module} must define exactly one public class, has {[cls.__name__ for cls in public]}"
        )
    return public[0]


def _parameters(cls: type[Any]) -> dict[str, inspect.Parameter]:
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {parameter.name: parameter for parameter in parameters if parameter.kind in keyword}


def _written_options(cls: ast.ClassDef, tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
                yield argument.arg, ast.unparse(default) if default is not None else "required"
            return
    # A dataclass' options are its annotated fields.
    is_dataclass = any("dataclass" in ast.unparse(decorator) for decorator in cls.decorator_list)
    for node in cls.body if is_dataclass else []:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, ast.unparse(node.value) if node.value is not None else "required"
    # A constructor may be inherited from a private helper of the family (energy's, max_softmax').
    for module in _sources_of({ast.unparse(base) for base in cls.bases}, tree):
        for node in module.body:
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == node.name for base in cls.bases):
                yield from _written_options(node, module)


def _sources_of(bases: set[str], tree: ast.Module) -> Iterator[ast.Module]:
    """Parse our modules that a class' bases are imported from, without importing any; the tree itself too."""
    yield tree
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("ray_app."):
            continue
        if bases & {alias.asname or alias.name for alias in node.names}:
            stem = Path(__file__).parent.joinpath(*str(node.module).split(".")[1:])
            path = stem.with_suffix(".py")
            yield ast.parse((path if path.exists() else stem / "__init__.py").read_text(encoding="utf-8"))
