"""Overriding fields, and abstract ones, as type checkers see it."""

from typing import ClassVar, assert_type

import equinox as eqx
from jaxtyping import Array, Float

import annotax as anx


class Base(anx.Module):
    weight: anx.Param[Float[Array, " n"] | None]
    inner: anx.Buffer[eqx.Module]
    rate: anx.Hyper[float]


class AnotherRole(Base):
    """A role is no part of the type: overriding it is free."""

    weight: anx.Buffer[Float[Array, " n"] | None]


class Narrower(Base):
    # A field of a PyTree node is never assigned again, so a narrower type is sound. mypy
    # allows it. Pyright allows it in frozen dataclasses only, and to declare modules
    # frozen would forbid the assignments in every `__init__`.
    weight: anx.Param[Float[Array, " n"]]  # pyright: ignore[reportIncompatibleVariableOverride]
    inner: anx.Buffer[eqx.nn.Linear]  # pyright: ignore[reportIncompatibleVariableOverride]


class Wrong(Base):
    rate: anx.Hyper[str]  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]


class Abstract(anx.Module):
    weight: eqx.AbstractVar[anx.Param[Array]]
    limit: ClassVar[int] = 3

    def total(self) -> Array:
        assert_type(self.weight, Array)
        return self.weight.sum()


class Concrete(Abstract):
    weight: anx.Param[Array]


class EquinoxFirst(eqx.nn.Dropout, anx.Module):
    """A base of Equinox beside ours: one metaclass derives from the other."""

    scale: anx.Param[Array]


def fields(narrower: Narrower, concrete: Concrete, first: EquinoxFirst) -> None:
    assert_type(narrower.weight, Array)
    assert_type(narrower.inner, eqx.nn.Linear)
    assert_type(concrete.weight, Array)
    assert_type(concrete.total(), Array)
    assert_type(Concrete.limit, int)
    assert_type(first.scale, Array)
    assert_type(first.inference, bool)
    first.scales  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def construction(x: Array) -> None:
    Concrete(x)
    Concrete(x, 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
