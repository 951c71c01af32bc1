"""What JAX says of the derivative of one equation, or why it says nothing.

Stands apart from `_derivatives`, which asks: here an equation is traced, on shapes alone.
"""

from collections.abc import Callable
from typing import Any

import jax

from ._compat import CUSTOM_RULES, equation_function
from ._dependence import Dependence, Flow, is_inexact
from ._text import printable

_jax: Any = jax  # the types of its transformations are partly unknown

Reach = list[tuple[int, ...]]
"""For each output of an equation, the positions of the inputs it has a derivative by."""


def probe(
    program: Any, equation: Any, active: tuple[int, ...], axes: tuple[tuple[Any, int], ...]
) -> Reach | str:
    """Which outputs of an equation have a derivative by which active inputs.

    **Returns:** the first line of what JAX raises if it cannot differentiate it.
    """
    taken, given, function = equation_function(program, equation)
    moved = list(dict.fromkeys(taken.index(equation.invars[at]) for at in active))
    results = [at for at, variable in enumerate(given) if is_inexact(variable)]

    def at_values(values: list[Any]) -> Callable[..., list[Any]]:
        def of_moved(*moving: Any) -> list[Any]:
            everything = list(values)
            for at, value in zip(moved, moving, strict=True):
                everything[at] = value
            computed = function(*everything)
            return [computed[at] for at in results]

        return of_moved

    types = [variable.aval for variable in taken]
    ask = _by_vjp if CUSTOM_RULES.get(equation.primitive.name) == "custom_vjp" else _by_jvp
    try:
        depends = ask(at_values, types, moved, [given[at].aval for at in results], axes)
    except Exception as error:  # what a rule, JAX's or the user's, raises can be anything
        return _first_line(error)
    positions = [
        {at for at in active if taken.index(equation.invars[at]) == place}
        for place in moved
    ]
    by_variable = {
        given[result]: tuple(
            at for bit, group in enumerate(positions) if mask >> bit & 1 for at in group
        )
        for result, mask in zip(results, depends, strict=True)
    }
    return [by_variable.get(variable, ()) for variable in equation.outvars]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__


def _by_jvp(
    at_values: Any, types: list[Any], moved: list[int], results: list[Any], axes: Any
) -> list[int]:
    """Per result, a bit for each moved input on whose tangent its own depends."""
    del results

    def tangents(values: list[Any], moving: list[Any]) -> Any:
        point = [values[at] for at in moved]
        return _jax.jvp(at_values(values), tuple(point), tuple(moving))[1]

    traced = _jax.make_jaxpr(tangents, axis_env=axes)(types, [types[at] for at in moved])
    inputs = [Flow()] * len(types) + [Flow(1 << bit) for bit in range(len(moved))]
    outputs, _ = Dependence().run(traced.jaxpr, inputs)
    return [flow.data for flow in outputs]


def _by_vjp(
    at_values: Any, types: list[Any], moved: list[int], results: list[Any], axes: Any
) -> list[int]:
    """The same for a `custom_vjp`, whose rule only knows the way back.

    A rule may ignore the cotangents it is given. What it makes of other values is a
    gradient too, with whichever result is used; only zeros are none.
    """

    def cotangents(values: list[Any], returning: list[Any]) -> Any:
        point = [values[at] for at in moved]
        _, pull = _jax.vjp(at_values(values), *point)
        return pull(returning)

    traced = _jax.make_jaxpr(cotangents, axis_env=axes)(types, results)
    other = 1 << len(results)
    inputs = [Flow(other)] * len(types) + [Flow(1 << bit) for bit in range(len(results))]
    outputs, _ = Dependence(constant=other).run(traced.jaxpr, inputs)
    sources = [flow.data & (other - 1) or (other - 1) * bool(flow.data) for flow in outputs]
    return [
        sum(1 << bit for bit, source in enumerate(sources) if source >> result & 1)
        for result in range(len(results))
    ]
