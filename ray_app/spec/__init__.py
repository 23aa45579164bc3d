"""What a YAML file may say. Everything is checked before anything starts; an unknown key is an error.

A method's own options are not repeated here: they live in its constructor alone, and the registry checks
them. Paths in a spec are relative to the folder where ray-app runs, which is the working directory of a Ray
job too.
"""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from ray_app import registry
from ray_app.errors import SpecError

S = TypeVar("S", bound="Spec")

Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""A name that a user gives and that becomes a file's or a folder's."""


class Spec(BaseModel):
    """Base of all specs: unknown keys are refused, values do not change after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Method(Spec):
    """A method's name and options: `{name: knn, k: 50}`, or just `knn`."""

    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "name" in value and "options" not in value:
            return {"name": value["name"], "options": {k: v for k, v in value.items() if k != "name"}}
        return value

    @model_serializer
    def _written(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}

    def build(self, family: str, **supplied: Any) -> Any:
        """Construct it, with what the engine supplies besides (see registry.build)."""
        return registry.build(family, self.name, self.options, **supplied)


def method_of(family: str, *supplied: str) -> AfterValidator:
    """Return a validator that checks a method's name and options against its class."""

    def known(method: Method) -> Method:
        try:
            registry.check(family, method.name, method.options, supplied=frozenset(supplied))
        except SpecError as error:
            raise ValueError(str(error)) from error
        return method

    return AfterValidator(known)


Encoder = Annotated[Method, method_of("encoders")]
Transform = Annotated[Method, method_of("transforms", "model")]
Head = Annotated[Method, method_of("heads")]
Detector = Annotated[Method, method_of("detectors", "encoder")]
Adapter = Annotated[Method, method_of("adapters")]
Combiner = Annotated[Method, method_of("combiners")]


def _optimizer(method: Method) -> Method:
    from ray_app.methods import _optimizers

    _optimizers.check(method.name, method.options)
    return method


Optimizer = Annotated[Method, AfterValidator(_optimizer)]
"""Not a family: torch's and timm's."""


def load(path: str | Path, model: type[S], overrides: Mapping[str, Any] | None = None) -> S:
    """Read and check a YAML file.

    Args:
        path: The file.
        model: What it must say.
        overrides: Dotted key → value, set over what the file says.

    Raises:
        SpecError: One line: the file, the key, what was given, what was expected.
    """
    path = Path(path)
    content = read_yaml(path)
    return parse(with_overrides(content, overrides or {}, str(path)), model, where=str(path))


def with_overrides(content: Any, overrides: Mapping[str, Any], where: str) -> Any:
    """Return what a file said with settings over it; the content itself is changed.

    Args:
        content: As read.
        overrides: Dotted key → value.
        where: How to call it in an error.

    Raises:
        SpecError: A key leads through something that holds no keys.
    """
    for key, value in overrides.items():
        _set(content, key, value, where)
    return content


def parse(content: Any, model: type[S], where: str) -> S:
    """Check what a YAML file, or a caller, said.

    Args:
        content: A mapping.
        model: What it must say.
        where: How to call it in an error: the file's name.

    Raises:
        SpecError: See load.
    """
    if not isinstance(content, Mapping):
        raise SpecError(f"{where}: expected keys and values, got {_short(content)}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise SpecError(f"{where}: {_first(error, model)}") from error
    except SpecError as error:
        # From a spec within this one, such as the settings that a search space names.
        raise SpecError(f"{where}: {error}") from error


def read_yaml(path: Path) -> Any:
    """Return a YAML file's content.

    Raises:
        SpecError: No such file, not a file, or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError(
            f"{path}: no such file in {Path.cwd()}; give a path relative to it, or absolute"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as a YAML file ({error})") from error
    return plain(text, str(path))


def plain(text: str, where: str) -> Any:
    """Return what YAML text says, in plain values.

    Args:
        text: The YAML.
        where: How to call it in an error.

    Raises:
        SpecError: Not YAML, or a key is there twice.
    """
    try:
        # A subclass of SafeLoader: it makes plain values only.
        return yaml.load(text, _Loader)  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise SpecError(f"{where}{line}: not valid YAML: {problem}") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-5` as text; here it is the number that everyone means. A key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        # PyYAML keeps the last of two equal keys without a word.
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            written = (key.tag, key.value)
            if written in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice; keep one", key.start_mark
                )
            seen.add(written)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)?\.?\d+[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _set(content: Any, key: str, value: Any, where: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {}) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        raise SpecError(f"{where}: cannot set {key!r}: {'.'.join(parents)} holds no keys")
    content[last] = value


def _first(error: ValidationError, model: type[BaseModel]) -> str:
    details = error.errors(include_url=False)
    # An unknown key explains a missing one (a misspelling is both), so it goes first.
    detail = next((d for d in details if d["type"] == "extra_forbidden"), details[0])
    # Empty where the whole spec is wrong: two keys that do not go together.
    loc = [part for part in detail["loc"] if not _is_tag(part)]
    parents, last = loc[:-1], loc[-1] if loc else ""
    place = ".".join(map(str, loc)) or "spec"
    if detail["type"] == "extra_forbidden":
        known = list(_keys_at(model, parents))
        return (
            f"{place}: unknown key{registry.nearest(str(last), known)} (keys: {', '.join(known) or 'none'})"
        )
    if detail["type"] == "missing":
        return f"{place}: is missing; add it"
    if detail["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{place}: expected keys and values, got {_short(detail['input'])}"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if detail["type"] == "value_error":
        return f"{place}: {message}"
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{place}: {message}, got {_short(detail['input'])}{more}"


def _is_tag(part: Any) -> bool:
    # Pydantic puts the names of validators, and `[key]`, into locations.
    return isinstance(part, str) and "[" in part


def _keys_at(model: type[BaseModel], parents: list[Any]) -> list[str]:
    """Return the keys of the model that a location leads to; parents in lists and mappings are passed by."""
    annotation: Any = model
    for parent in parents:
        found = _model_in(annotation)
        if found is None:
            return []
        if isinstance(parent, int) or _is_mapping(annotation):
            annotation = found
            continue
        field = found.model_fields.get(parent)
        annotation = field.annotation if field else None
    found = _model_in(annotation)
    return [field.alias or name for name, field in found.model_fields.items()] if found else []


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(get_origin(part) is dict for part in get_args(annotation))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


__all__ = [
    "Adapter",
    "Combiner",
    "Detector",
    "Encoder",
    "Head",
    "Key",
    "Method",
    "Optimizer",
    "Spec",
    "Transform",
    "load",
    "method_of",
    "parse",
    "plain",
    "read_yaml",
    "with_overrides",
]
