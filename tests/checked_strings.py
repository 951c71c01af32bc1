"""Classes with checked methods, all of whose annotations are strings."""

from __future__ import annotations

from typing import Self

from jaxtyping import Array, Float

import annotax as anx


def make() -> tuple[type, type]:
    """A class local to a function, whose annotations name another local one."""

    class Local:
        pass

    class Model(anx.Module, check="full"):
        weight: anx.Param[Float[Array, " n"]]
        n: anx.Hyper[int]

        def apply(self, x: Float[Array, " n"], other: Local) -> Float[Array, " n"]:
            return x

        def many(self, locals: list[Local], self_type: Model) -> list[Self]:
            return [self_type]

        def later(self, x: Later) -> None:
            del self

    return Model, Local


class Linear(anx.Module, check="full"):
    """Strings, moreover, can be pickled."""

    weight: anx.Param[Float[Array, "out in"]]

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.weight @ x

    def apply(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.weight @ x


class Later:
    """Named before it is there."""
