"""Columns of one type from values that each row writes as it likes.

int     whole numbers, int64
float   float64; a missing value is NaN
bool    true or false
text    str; a missing value is None
list    arrays of numbers, float64 or, where all are whole, int64
json    whatever is nested otherwise, as JSON text
"""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from ray_app.data.arrow import objects

Kind: TypeAlias = Literal["int", "float", "bool", "text", "list", "json"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_WHOLE = re.compile(r"[+-]?[0-9]+")
# A code such as 00123 is no number.
_CODE = re.compile(r"[+-]?0[0-9]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf)", re.IGNORECASE)
_TYPES = {"int": np.int64, "float": np.float64, "bool": np.bool_}


def kind_of(values: Sequence[Any]) -> Kind:
    """Return the type that most values have, None being of any: the others will be rejected."""
    found = Counter(_kind(value) for value in values if value is not None)
    if not found:
        return "text"
    if (
        found["int"]
        and (found["float"] or None in values)
        and found["int"] + found["float"] > found.total() / 2
    ):
        return "float"
    return found.most_common(1)[0][0]


def kind_of_cells(cells: Sequence[str]) -> Kind:
    """Return the type that all cells can be read as; empty cells are missing values."""
    given = [cell for cell in cells if cell]
    if not given or any(_CODE.match(cell) for cell in given):
        return "text"
    if all(_WHOLE.fullmatch(cell) for cell in given):
        return "int" if len(given) == len(cells) else "float"
    return "float" if all(_NUMBER.fullmatch(cell) for cell in given) else "text"


def typed(name: str, value: Any, kind: Kind) -> Any:
    """Return a value of JSON as its column's type.

    Raises:
        ValueError: It is of another.
    """
    if value is None:
        return _missing(name, kind)
    if kind == "json":
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    if kind == "text" and isinstance(value, str):
        return value if value.isascii() else _encodable(name, value)
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "list" and isinstance(value, list) and all(map(_is_number, value)):
        return _array(name, value)
    if kind == "float" and _is_number(value):
        return float(value)
    if kind == "int" and _is_number(value) and math.isfinite(value) and int(value) == value:
        return _in_range(name, int(value))
    raise ValueError(
        f"{name}: {_short(value)} where the column holds {_called(kind)}; say `types: {{{name}: …}}`"
    )


def typed_cell(name: str, cell: str, kind: Kind) -> Any:
    """Return a cell of CSV as its column's type.

    Raises:
        ValueError: It cannot be read as it.
    """
    if kind == "text":
        return cell
    if not cell:
        return _missing(name, kind)
    if kind == "int" and _WHOLE.fullmatch(cell):
        return _in_range(name, int(cell[:40]))
    if kind == "float" and _NUMBER.fullmatch(cell):
        return float(cell)
    raise ValueError(
        f"{name}: {_short(cell)} where the column holds {_called(kind)}; say `types: {{{name}: …}}`"
    )


def column(values: list[Any], kind: Kind) -> np.ndarray:
    """Return typed values as a column."""
    return np.array(values, dtype=_TYPES[kind]) if kind in _TYPES else objects(values)


def check_types(source: str, types: Any, allowed: Sequence[str]) -> None:
    """Refuse what an option `types` may not say.

    Raises:
        ValueError: Names the value, and what it may be.
    """
    for name, kind in types.items() if types is not None else ():
        if kind not in allowed:
            raise ValueError(f"{source}: types says {name}: {kind!r}; expected one of {', '.join(allowed)}")


def _kind(value: Any) -> Kind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "int" if isinstance(value, int) else "float"
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list) and all(map(_is_number, value)) else "json"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _missing(name: str, kind: Kind) -> Any:
    if kind in ("int", "bool"):
        raise ValueError(f"no value in {name}")
    return float("nan") if kind == "float" else None


def _array(name: str, value: list[Any]) -> np.ndarray:
    whole = value and all(isinstance(number, int) for number in value)
    return np.array(
        [_in_range(name, n) for n in value] if whole else value, np.int64 if whole else np.float64
    )


def _in_range(name: str, value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name}: {_short(value)} needs more than 64 bits")
    return value


def _encodable(name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: half a surrogate pair at {error.start}; no UTF-8 can hold it") from error
    return value


def _called(kind: Kind) -> str:
    names = {"int": "whole numbers", "float": "numbers", "bool": "true or false", "list": "lists of numbers"}
    return names.get(kind, kind)


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 40 else f"{said[:39]}…"
