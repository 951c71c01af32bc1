"""Checks of values that are no arrays: instances, literals, containers item by item."""

import collections.abc
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, cast

import jax

from ._array_check import Check, all_of
from ._dims import Sizes, UnboundError
from ._mismatch import OK, Mismatch, no_array, wrong_type

_ABC = collections.abc
_KEY = 40
"""The longest key of a dictionary that is shown whole."""


def anything(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
    return OK


def none(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
    return OK if value is None else [wrong_type(value)]


def any_callable(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
    return OK if callable(value) else [wrong_type(value)]


@lru_cache(maxsize=1024)
def instance(cls: type) -> Check:
    stands_for_array = _is_base_of_array(cls)

    def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
        if isinstance(value, cls):
            return OK
        if stands_for_array and isinstance(value, jax.ShapeDtypeStruct):
            return OK
        return [no_array(value, cls) if stands_for_array else wrong_type(value)]

    return check


def _is_base_of_array(cls: type) -> bool:
    try:
        return issubclass(jax.Array, cls)
    except TypeError:  # a protocol with attributes, as in `jax.typing.DTypeLike`
        return False


def subclass(cls: type | tuple[type, ...]) -> Check:
    def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
        fits = isinstance(value, type) and issubclass(value, cls)
        return OK if fits else [wrong_type(value)]

    return check


def literal(allowed: tuple[object, ...]) -> Check:
    kinds = tuple({type(value) for value in allowed})

    def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
        fits = isinstance(value, kinds) and value in allowed
        return OK if fits else [wrong_type(value)]

    return check


def optional(inner: Check) -> Check:
    def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
        return OK if value is None else inner(value, sizes)

    return check


def in_turn(first: Check, *others: Check) -> Check:
    """All of some checks, each for what the ones before have let through.

    What a later one refuses, or cannot judge, binds nothing either.
    """
    if not others:
        return first

    def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
        saved = sizes.save()
        wrong = OK
        try:
            for one in (first, *others):
                wrong = one(value, sizes)
                if wrong:
                    break
        except UnboundError:
            sizes.restore(saved)
            raise
        if wrong:
            sizes.restore(saved)
        return wrong

    return check


def each(cls: type, item: Check) -> Check:
    def parts(value: Any) -> Iterator[tuple[str, Check, Any]]:
        is_set = isinstance(value, _ABC.Set)
        for at, one in enumerate(value):
            yield " item" if is_set else f"[{at}]", item, one

    def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
        if not isinstance(value, cls):
            return [wrong_type(value)]
        if not isinstance(value, _ABC.Collection):  # looking would use it up
            return OK
        return all_of(parts(value), sizes)

    return check


def items(checks: tuple[Check, ...]) -> Check:
    def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
        if not isinstance(value, tuple):
            return [wrong_type(value)]
        whole: tuple[Any, ...] = cast(Any, value)
        if len(whole) != len(checks):
            return [Mismatch(f"a tuple of {len(whole)}")]
        pairs = enumerate(zip(checks, whole, strict=True))
        return all_of(((f"[{at}]", item, one) for at, (item, one) in pairs), sizes)

    return check


def pairs(cls: type, key: Check, item: Check) -> Check:
    def parts(value: Any) -> Iterator[tuple[str, Check, Any]]:
        for name, one in value.items():
            where = _key_text(name)
            yield f" key {where}", key, name
            yield where, item, one

    def check(value: Any, sizes: Sizes) -> Sequence[Mismatch]:
        if not isinstance(value, cls):
            return [wrong_type(value)]
        return all_of(parts(value), sizes)

    return check


def _key_text(key: object) -> str:
    """A key in brackets; its class, if what it shows of itself may be long or an array."""
    if not isinstance(key, str | bytes | int | Enum):
        return f"[<{type(key).__name__}>]"
    text = repr(key)
    return f"[{text}]" if len(text) <= _KEY else f"[{text[:_KEY]}...]"


def is_checkable(cls: type) -> bool:
    """Whether `isinstance` answers for a class: of some protocols it does not."""
    try:
        isinstance(None, cls)
    except Exception:
        return False
    return True
