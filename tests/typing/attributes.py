"""What type checkers see of annotated fields: the plain type, and nothing unknown."""

from typing import Annotated, Generic, TypeVar, assert_type

import equinox as eqx
from jaxtyping import Array, Float, Int

import annotax as anx

T = TypeVar("T")
BatchStat = Annotated[T, anx.Role("batch_stat", parent=anx.Buffer)]
LoRA = Annotated[T, anx.Role("lora", parent=anx.Param)]
Statistic = BatchStat[Float[Array, " n"]]


class Norm(anx.Module):
    mean: BatchStat[Float[Array, " n"]]
    variance: Statistic
    count: anx.Buffer[Int[Array, ""]]


class Linear(anx.Module):
    weight: anx.Param[Float[Array, "n m"]]
    bias: anx.Param[Float[Array, " n"] | None]
    gain: anx.Param[Float[Array, " n"]] | None
    stages: anx.Param[list[Float[Array, " n"]]]
    nested: tuple[anx.Param[Array], dict[str, Array]]
    norm: anx.Buffer[Norm]
    adapter: LoRA[eqx.nn.Linear]
    n: anx.Hyper[int]
    names: anx.Hyper[tuple[str, ...]]
    plain: float

    def __call__(self, x: Array) -> Array:
        assert_type(self.weight, Array)
        assert_type(self.norm.mean, Array)
        return self.weight @ x


def kinds_of_fields(layer: Linear) -> None:
    assert_type(layer.weight, Array)
    assert_type(layer.bias, Array | None)
    assert_type(layer.gain, Array | None)
    assert_type(layer.stages, list[Array])
    assert_type(layer.nested, tuple[Array, dict[str, Array]])
    assert_type(layer.norm, Norm)
    assert_type(layer.norm.mean, Array)
    assert_type(layer.norm.variance, Array)
    assert_type(layer.norm.count, Array)
    assert_type(layer.adapter, eqx.nn.Linear)
    assert_type(layer.n, int)
    assert_type(layer.names, tuple[str, ...])
    assert_type(layer.plain, float)


def methods(layer: Linear, x: Array) -> None:
    assert_type(layer(x), Array)
    layer(x, x)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    layer("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def unknown_attributes(layer: Linear) -> None:
    layer.wieght  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    layer.norm.meen  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    Linear.wieght  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    layer.wieght = 1  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def a_union_must_be_narrowed(layer: Linear) -> None:
    print(layer.bias.shape)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    if layer.bias is not None:
        assert_type(layer.bias.shape, tuple[int, ...])


class WrongTypes(anx.Module):
    weight: anx.Param[Array]
    n: anx.Hyper[int]
    rate: anx.Hyper[float] = "fast"  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

    def __init__(self, n: int) -> None:
        self.weight = n  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
        self.n = "n"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]


class Pair(anx.Module, Generic[T]):
    first: anx.Buffer[T]
    second: anx.Param[T] | None


def generics(pair: Pair[Linear]) -> None:
    assert_type(pair.first, Linear)
    assert_type(pair.second, Linear | None)


def an_annotax_module_is_an_equinox_module(layer: Linear) -> eqx.Module:
    module: anx.Module = layer
    return module
