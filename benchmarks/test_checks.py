"""What checks cost: making instances, calling methods, looking at a whole model.

The twins are plain Equinox modules, alone and as people check them today, with
`jaxtyping.jaxtyped` and beartype.
"""

import statistics
from collections.abc import Callable
from typing import Any

import beartype
import equinox as eqx
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float, jaxtyped

import annotax as anx
from _ratio import THREAD, Row, without_gc
from _twins import Norm, Stack

MODULES = 1000  # three leaves each
ROUNDS = 25

typechecked: Any = jaxtyped(typechecker=beartype.beartype)


def made(base: type, count: int, role: Any = None) -> Any:
    """A class of so many equal fields."""
    hint = Float[Array, "a b"]
    annotation = hint if role is None else role[hint]
    names = [f"field_{at}" for at in range(count)]
    return type(base)(
        f"Of{count}", (base,), {"__annotations__": dict.fromkeys(names, annotation)}
    )


def made_plain(count: int) -> Any:
    """The twin of Equinox."""
    return made(eqx.Module, count)


def made_typechecked(count: int) -> Any:
    """The twin that jaxtyping checks."""
    return typechecked(made(eqx.Module, count))


CONSTRUCTIONS = {
    "make a checked instance of {} fields": ("fields", made_plain, 1.15),
    "... against jaxtyped with beartype, {} fields": ("fields", made_typechecked, 0.5),
    "... with checks off, {} fields": ("off", made_plain, 1.05),
}


@pytest.mark.parametrize("count", [4, 16, 64])
@pytest.mark.parametrize("what", CONSTRUCTIONS)
def test_construct(compare: Any, what: str, count: int) -> None:
    mode, make_twin, aim = CONSTRUCTIONS[what]
    ours, theirs = made(anx.Module, count, anx.Param), make_twin(count)
    args = [jnp.ones((2, 3))] * count
    with anx.checking(mode):
        compare(what.format(count), lambda: ours(*args), lambda: theirs(*args), aim=aim)


def test_method(compare: Any) -> None:
    class Theirs(eqx.Module):
        weight: Float[Array, "out in"]

        @typechecked
        def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
            return x

    x = jnp.ones(3)
    with anx.checking("full"):

        class Ours(anx.Module):
            weight: anx.Param[Float[Array, "out in"]]

            def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
                return x

        ours, theirs = Ours(jnp.ones((3, 3))), Theirs(jnp.ones((3, 3)))
        what = "call a method in mode full, against jaxtyped with beartype"
        compare(what, lambda: ours(x), lambda: theirs(x), aim=1.2)


@pytest.mark.parametrize("base", ["plain", "loose"])
def test_make_class(compare: Any, base: str) -> None:
    """A class that is never used pays for no check: made with checks, and without."""
    role = anx.Param if base == "plain" else None

    def unchecked() -> None:
        with anx.checking("off"):
            made(anx.Module, 16, role)

    def checked() -> None:
        with anx.checking("fields"):
            made(anx.Module, 16, role)

    what = "make a class of 16 fields, checks not used" + (
        "" if role is not None else ", no roles"
    )
    compare(what, checked, unchecked, aim=1.05)


@pytest.mark.parametrize("members", [0, 5])
def test_validate(report: Callable[[Row], None], benchmark: Any, members: int) -> None:
    leading = (members,) if members else ()

    def layer() -> Norm:
        return Norm(*(jnp.ones((*leading, 8)) for _ in range(3)), 0.1)

    with anx.checking("off"):
        model = Stack([layer() for _ in range(MODULES)])

    def validate() -> Any:
        return anx.validate(model, batch_axes=len(leading))

    validate()
    times: list[float] = []
    with without_gc():
        for _ in range(ROUNDS):
            start = THREAD()
            validate()
            times.append(THREAD() - start)
    what = "validate, 3000 leaves" + (", an ensemble" if members else "")
    report(Row(what, 1000 * statistics.median(times), 30.0, unit="ms"))
    benchmark.pedantic(validate, rounds=5)
