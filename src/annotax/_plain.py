"""Values that are no arrays, as plain data for JSON: to be written down and compared.

What JSON has no form for becomes its text, which tells two functions apart and says
nothing of where they are in memory. The same value has the same form in every process.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

import numpy as np

from ._text import value_text

_AS_IT_IS = (bool, int, str, type(None))

_LONGEST = 1000
"""So many characters of a text are kept."""

_DEEPEST = 16
"""What nests deeper than this may contain itself, and only its type is told."""


def plain(value: Any, depth: int = 0) -> Any:
    """A value in a form that is the same again after JSON.

    Examples:
        >>> from annotax._plain import plain
        >>> plain((1, "a", {"b": 2.5})), plain(len), plain(frozenset({2, 1}))
        ([1, 'a', {'dict': [['b', 2.5]]}], {'text': 'len'}, {'set': [1, 2]})
    """
    if type(value) in _AS_IT_IS or (type(value) is float and math.isfinite(value)):
        return value
    if isinstance(value, np.generic):
        return _number(value)
    if depth >= _DEEPEST:
        return {"text": type(cast(object, value)).__qualname__}
    if type(value) in (list, tuple):
        return [plain(item, depth + 1) for item in cast("list[Any]", value)]
    return _marked(value, depth + 1)


def _number(scalar: Any) -> Any:
    """A scalar of numpy as a plain number; a longdouble has none."""
    number = scalar.item()
    is_plain = not isinstance(number, np.generic)
    return plain(number) if is_plain else {"text": str(scalar)}


def _marked(value: Any, depth: int) -> dict[str, Any]:
    """What JSON has no form for, under a word that says what it was."""
    if isinstance(value, Mapping):  # its order means nothing, as in JAX
        items = cast("Mapping[Any, Any]", value).items()
        pairs = [[plain(key, depth), plain(item, depth)] for key, item in items]
        return {"dict": sorted(pairs, key=repr)}
    if isinstance(value, set | frozenset):
        found = [plain(item, depth) for item in cast("set[Any]", value)]
        return {"set": sorted(found, key=repr)}
    names = _field_names(value)
    if names is None:
        return {"text": value_text(value, _LONGEST)}
    told = {name: plain(getattr(value, name, None), depth) for name in names}
    return {"class": type(value).__qualname__, "fields": told}


def _field_names(value: Any) -> list[str] | None:
    """The names of the fields of a dataclass or a named tuple; of anything else `None`."""
    if is_dataclass(value) and not isinstance(value, type):
        return [own.name for own in fields(value)]
    named = getattr(cast(object, value), "_fields", None)
    is_named = isinstance(value, tuple) and isinstance(named, tuple)
    return list(cast("tuple[str, ...]", named)) if is_named else None


class Shown:
    """What `plain` gave, with a `repr` for a reader."""

    __slots__ = ("_told",)

    def __init__(self, told: Any) -> None:
        self._told = told

    def __repr__(self) -> str:
        return text_of(self._told)


def text_of(told: Any) -> str:
    """What `plain` gave, for a reader.

    **Raises:** `ValueError`, `KeyError`, `TypeError`, `AttributeError` for anything else.
    """
    if isinstance(told, list):
        items = list(map(text_of, cast("list[Any]", told)))
        return f"({', '.join(items)}{',' * (len(items) == 1)})"
    if not isinstance(told, dict):
        return repr(told)
    data = cast("dict[str, Any]", told)
    if "dict" in data:
        return f"{{{', '.join(f'{text_of(k)}: {text_of(v)}' for k, v in data['dict'])}}}"
    if "set" in data:
        return f"{{{', '.join(map(text_of, data['set']))}}}"
    if "class" in data:
        own = ", ".join(f"{name}={text_of(x)}" for name, x in data["fields"].items())
        return f"{data['class']}({own})"
    if isinstance(data["text"], str):
        return data["text"]
    raise TypeError("text")
