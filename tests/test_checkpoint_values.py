"""Hypers and other values that are no arrays: how a checkpoint tells of them."""

import dataclasses
import enum
import functools
import json
import math
from collections import OrderedDict
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Array

import annotax as anx
from annotax._plain import Shown, plain
from annotax._text import value_text
from test_checkpoint_messages import FILE, folder, said, zeros

__all__ = ["folder"]  # a fixture


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 1
    inner: Any = "x"


class Point(NamedTuple):
    x: Any
    y: Any


class Fixed(eqx.Module):
    value: Any = eqx.field(static=True)


def endless() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


VALUES: list[tuple[Any, Any, str]] = [
    (None, None, "None"),
    (True, True, "True"),
    (3, 3, "3"),
    (2.5, 2.5, "2.5"),
    ("a\n", "a\n", r"'a\n'"),
    (math.inf, {"text": "inf"}, "inf"),
    (math.nan, {"text": "nan"}, "nan"),
    (1j, {"text": "1j"}, "1j"),
    (b"x", {"text": "b'x'"}, "b'x'"),
    (..., {"text": "Ellipsis"}, "Ellipsis"),
    ((1, (2, "x")), [1, [2, "x"]], "(1, (2, 'x'))"),
    ([1], [1], "(1,)"),
    ((), [], "()"),
    (frozenset("cab"), {"set": ["a", "b", "c"]}, "{'a', 'b', 'c'}"),
    ({"b": 1, "a": (2,)}, {"dict": [["a", [2]], ["b", 1]]}, "{'a': (2,), 'b': 1}"),
    (OrderedDict(x=1), {"dict": [["x", 1]]}, "{'x': 1}"),
    (Config(inner=Config(2)), {"class": "Config", "fields": {"width": 1, "inner":
     {"class": "Config", "fields": {"width": 2, "inner": "x"}}}},
     "Config(width=1, inner=Config(width=2, inner='x'))"),
    (Point(1, frozenset("ba")), {"class": "Point", "fields": {"x": 1, "y": {"set":
     ["a", "b"]}}}, "Point(x=1, y={'a', 'b'})"),
    (Fixed(jnp.tanh), {"class": "Fixed", "fields": {"value": {"text": "tanh"}}},
     "Fixed(value=tanh)"),
    (Color.RED, {"text": "<Color.RED: 1>"}, "<Color.RED: 1>"),
    (jnp.tanh, {"text": "tanh"}, "tanh"),
    (Config, {"text": "Config"}, "Config"),
    (jnp.float32, {"text": "float32"}, "float32"),
    (np.dtype("int8"), {"text": "dtype('int8')"}, "dtype('int8')"),
    (np.float32(0.5), 0.5, "0.5"),
    (np.bool_(True), True, "True"),
    (np.longdouble(1), {"text": "1.0"}, "1.0"),
    (np.ones(3), {"text": "f64[3]"}, "f64[3]"),
    (object(), {"text": "<object object>"}, "<object object>"),
    (functools.partial(max, 1), {"text": "functools.partial(<built-in function max>, 1)"},
     "functools.partial(<built-in function max>, 1)"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "told", "shown"), VALUES, ids=lambda x: None)
def test_values_in_a_manifest(value, told, shown):
    assert plain(value) == told
    assert type(plain(value)) is type(told)
    assert json.loads(json.dumps(plain(value))) == told
    assert repr(Shown(told)) == shown


@pytest.mark.parametrize(
    "told", [{"dict": 3}, {"set": None}, {"class": 1}, {}, [{"x": {}}]]
)
def test_what_no_value_gave_can_be_shown_too(told):
    assert value_text(Shown(told))  # somebody else wrote the file


def test_a_value_that_contains_itself():
    assert json.dumps(plain(endless())).strip("[]") == '{"text": "list"}'


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.builds(Config, st.integers(), inner),
        st.builds(Point, inner, inner),
    ),
    max_leaves=8,
)


@given(_VALUES)
def test_a_value_is_itself_after_json_and_can_be_shown(value):
    told = plain(value)
    assert json.loads(json.dumps(told)) == told
    assert isinstance(repr(Shown(told)), str)


DIFFERENT: list[tuple[Any, Any, str]] = [
    (Config(1), Config(2), "Config(width=1, inner='x') in the file, "
     "Config(width=2, inner='x') in the model"),
    (functools.partial(jax.nn.gelu, approximate=True),
     functools.partial(jax.nn.gelu, approximate=False),
     "functools.partial(<function gelu>, approximate=True) in the file, "
     "functools.partial(<function gelu>, approximate=False) in the model"),
    ("x" * 99 + "a", "x" * 99 + "b",
     f"…{'x' * 20}a' in the file, …{'x' * 20}b' in the model"),
    (Color.RED, Color.BLUE, "<Color.RED: 1> in the file, <Color.BLUE: 2> in the model"),
    ((1, 2), (1, 2, 3), "(1, 2) in the file, (1, 2, 3) in the model"),
    (Fixed(1), Fixed(2), "Fixed(value=1) in the file, Fixed(value=2) in the model"),
    (None, 0, "None in the file, 0 in the model"),
    ("\x1b[31m", "", r"'\x1b[31m' in the file, '' in the model"),
]  # fmt: skip


class Setting(eqx.Module):
    x: Array
    value: Any = eqx.field(static=True)


@pytest.mark.parametrize(("old", "new", "words"), DIFFERENT)
def test_words_that_tell_two_values_apart(old, new, words):
    anx.save(FILE, Setting(zeros(1), old))
    (found,) = said(Setting(zeros(1), new))
    assert f"value: {words}" in " ".join(found.split())


SAME: list[tuple[Any, Any]] = [
    (0, 0.0), ((1, 2), [1, 2]), (math.nan, -math.nan), (lambda x: x, lambda y: y),
    (frozenset("abc"), frozenset("cba")), ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (object(), object()),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), SAME, ids=lambda x: None)
def test_values_that_count_as_the_same(old, new):
    anx.save(FILE, Setting(zeros(1), old))
    assert said(Setting(zeros(1), new), hypers="error") == []
