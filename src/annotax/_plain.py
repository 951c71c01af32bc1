"""Values that are no arrays, as plain data for JSON: to be written down and compared.

What JSON has no form for becomes its text, which tells two functions apart and says
nothing of where they are in memory.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

import numpy as np

from ._text import value_text

_AS_IT_IS = (bool, int, str, type(None))


def plain(value: Any) -> Any:
    """A value in a form that is the same again after JSON.

    Examples:
        >>> from annotax._plain import plain
        >>> plain((1, "a", {"b": 2.5})), plain(len), plain(frozenset({2, 1}))
        ([1, 'a', {'dict': [['b', 2.5]]}], {'text': 'len'}, {'set': [1, 2]})
    """
    if type(value) in _AS_IT_IS or (type(value) is float and math.isfinite(value)):
        return value
    if isinstance(value, np.generic):
        return plain(value.item())
    if type(value) in (list, tuple):
        return list(map(plain, cast("list[Any]", value)))
    return _marked(value)


def _marked(value: Any) -> dict[str, Any]:
    """What JSON has no form for, under a word that says what it was."""
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {"dict": [[plain(key), plain(item)] for key, item in items]}
    if isinstance(value, set | frozenset):
        return {"set": sorted(map(plain, cast("set[Any]", value)), key=repr)}
    if is_dataclass(value) and not isinstance(value, type):
        told = {own.name: plain(getattr(value, own.name, None)) for own in fields(value)}
        return {"class": type(value).__qualname__, "fields": told}
    return {"text": value_text(value, 1000)}


def plain_text(told: Any, width: int = 40) -> str:
    """What `plain` gave, for a reader; never fails, whatever it is."""
    if isinstance(told, dict):
        data = cast("dict[str, Any]", told)
        if "text" in data:
            return value_text(_Text(str(data["text"])), width)
        told = data.get("dict", data.get("set", data.get("class", told)))
    return value_text(told, width)


class _Text(str):
    """Prints as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
