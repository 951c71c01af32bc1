"""The signature of the generated `__init__`, as type checkers see it."""

import dataclasses
from typing import assert_type

import equinox as eqx
from jaxtyping import Array, Float

import annotax as anx


class Linear(anx.Module):
    weight: anx.Param[Float[Array, "n m"]]
    bias: anx.Param[Float[Array, " n"] | None]
    n: anx.Hyper[int]


def every_field_is_an_argument(x: Array) -> None:
    assert_type(Linear(x, None, 3), Linear)
    assert_type(Linear(weight=x, bias=x, n=3), Linear)
    Linear(x, None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Linear(x, None, 3, 4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Linear(x, None, m=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Linear(None, None, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Linear(x, None, "3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Child(Linear):
    extra: anx.Buffer[Array]


def inherited_fields_come_first(x: Array) -> None:
    Child(x, None, 3, x)
    Child(x, None, 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class Defaults(anx.Module):
    weight: anx.Param[Array]
    rate: anx.Hyper[float] = 0.1
    mean: anx.Buffer[Array | None] = anx.field(default=None, doc="running mean")
    layers: anx.Param[list[Array]] = anx.field(default_factory=list, tags=["body"])
    cached: Array | None = anx.field(role=anx.Buffer, persistent=False, default=None)
    version: anx.Hyper[int] = anx.field(init=False, default=1)
    epsilon: anx.Hyper[float] = eqx.field(default=1e-5)
    axes: anx.Hyper[tuple[str, ...]] = dataclasses.field(default=("n",))
    last: anx.Hyper[str] = anx.field(kw_only=True)


def options_of_field_count(x: Array) -> None:
    assert_type(Defaults(x, last=""), Defaults)
    Defaults(x, 0.2, x, [x], None, 1e-6, ("m",), last="")
    Defaults(x)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Defaults(x, last=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Defaults(x, version=2, last="")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Defaults(x, rate="", last="")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class NoDefault(anx.Module):
    weight: anx.Param[Array] = anx.field(tags=["no_decay"], axes=("n", None))
    mean: Array = anx.field(role=anx.Buffer, metadata={"unit": "m"})


def field_alone_is_no_default(x: Array) -> None:
    NoDefault(x, x)
    NoDefault(x)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class KeywordOnly(anx.Module):
    weight: anx.Param[Array]
    _: dataclasses.KW_ONLY
    rate: anx.Hyper[float] = 0.1
    n: anx.Hyper[int]


def fields_after_the_sentinel_are_keyword_only(x: Array) -> None:
    KeywordOnly(x, n=1)
    KeywordOnly(x, 0.1, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class OwnInit(anx.Module):
    weight: anx.Param[Array]
    n: anx.Hyper[int]

    def __init__(self, weight: Array) -> None:
        self.weight = weight
        self.n = weight.size


def an_init_of_ones_own_counts(x: Array) -> None:
    assert_type(OwnInit(x), OwnInit)
    OwnInit(x, 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class WrongOptions(anx.Module):
    no_decay: anx.Param[Array] = anx.field(tags=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    persists: anx.Param[Array] = anx.field(persistent="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
