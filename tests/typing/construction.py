"""The signature of the generated `__init__`, as type checkers see it."""

import dataclasses

import annotax as anx
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float
from typing_extensions import assert_type

x = jnp.ones(3)


class Linear(anx.Module):
    weight: anx.Param[Float[Array, "n m"]]
    bias: anx.Param[Float[Array, " n"] | None]
    n: anx.Hyper[int]


assert_type(Linear(x, None, 3), Linear)
assert_type(Linear(weight=x, bias=x, n=3), Linear)
Linear(x, None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Linear(x, None, 3, 4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Linear(x, None, m=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Linear(None, None, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Linear(x, None, "3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


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


assert_type(Defaults(x, last=""), Defaults)
Defaults(x, 0.2, x, [x], None, 1e-6, ("m",), last="")
Defaults(x)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Defaults(x, last=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Defaults(x, version=2, last="")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Defaults(x, rate="", last="")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class NoDefault(anx.Module):
    """`field` without a default makes no default."""

    weight: anx.Param[Array] = anx.field(tags=["no_decay"], axes=("n", None))
    mean: Array = anx.field(role=anx.Buffer)


NoDefault(x, x)
NoDefault(x)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class KeywordOnly(anx.Module, kw_only=True):
    weight: anx.Param[Array]
    rate: anx.Hyper[float] = 0.1


KeywordOnly(weight=x)
KeywordOnly(x)  # type: ignore[call-arg, misc]  # pyright: ignore[reportCallIssue]


class OwnInit(anx.Module):
    weight: anx.Param[Array]
    n: anx.Hyper[int]

    def __init__(self, n: int) -> None:
        self.weight = jnp.ones(n)
        self.n = n


assert_type(OwnInit(3), OwnInit)
OwnInit(x, 3)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]


class Child(Linear):
    """Inherited fields come first."""

    extra: anx.Buffer[Array]


Child(x, None, 3, x)
Child(x, None, 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class Misspelt(anx.Module):
    weight: anx.Param[Array] = anx.field(tag=["a"], tags=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
