"""What depends on what in a traced program: one pass over a jaxpr.

It only follows the program through its loops, branches and calls, and knows nothing of
derivatives: `_derivatives` does, and asks this file what the programs of derivatives
depend on.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.extend.core
import numpy as np

from ._compat import is_ref, scan_counts

_Jaxpr: Any = jax.extend.core.Jaxpr
_ClosedJaxpr: Any = jax.extend.core.ClosedJaxpr
_Literal: Any = jax.extend.core.Literal


class Flow(NamedTuple):
    """On which inputs a variable depends: each field is a set, one bit an input."""

    data: int = 0
    """At all."""
    through: int = 0
    """Differentiably, if whatever cuts gradients off were the identity."""
    grad: int = 0
    """Differentiably, as JAX sees it."""


NOTHING = Flow()


def union(*flows: Flow) -> Flow:
    """What depends on everything that one of `flows` depends on."""
    data = through = grad = 0
    for flow in flows:
        data, through, grad = data | flow[0], through | flow[1], grad | flow[2]
    return Flow(data, through, grad)


def is_inexact(variable: Any) -> bool:
    """Whether a variable of a jaxpr holds floating point or complex numbers."""
    dtype = getattr(variable.aval, "dtype", None)  # a token has none
    return dtype is not None and bool(jax.numpy.issubdtype(dtype, np.inexact))


class Dependence:
    """A pass that follows data. Whoever knows more of an equation overrides `leaf`.

    **Arguments:** `constant` is what constants other than zero count as depending on.
    """

    def __init__(self, constant: int = 0) -> None:
        self._constant = Flow(constant)
        self.around: list[Any] = []
        """The equations whose programs the one at hand stands in, outermost first."""

    @property
    def axes(self) -> dict[Any, int]:
        """The named axes around the equation at hand, with their sizes."""
        axes: dict[Any, int] = {}
        for equation in self.around:
            axes |= _named_axes(equation.params)
        return axes

    def leaf(self, program: Any, equation: Any, given: list[Flow]) -> list[Flow]:
        """What the outputs of an equation depend on that holds no program of its own."""
        del program
        data = union(*given).data if equation.invars else self._constant.data
        return [Flow(data)] * len(equation.outvars)

    def run(self, program: Any, inputs: Sequence[Flow]) -> tuple[list[Flow], list[Flow]]:
        """Follow a jaxpr.

        **Returns:** what its outputs depend on, and what its inputs do afterwards: a
        mutable array takes in what is written to it. What is overwritten is not forgotten.
        """
        flows: dict[Any, Flow] = dict.fromkeys(program.constvars, self._constant)
        flows.update(zip(program.invars, inputs, strict=True))
        for equation in program.eqns:
            given = [self._read(flows, atom) for atom in equation.invars]
            results, after = self._follow(program, equation, given)
            flows.update(zip(equation.outvars, results, strict=True))
            if after is not given:
                for atom, flow in zip(equation.invars, after, strict=True):
                    if is_ref(atom):
                        flows[atom] = union(flows[atom], flow)
        outputs = [self._read(flows, atom) for atom in program.outvars]
        return outputs, [flows[variable] for variable in program.invars]

    def _read(self, flows: dict[Any, Flow], atom: Any) -> Flow:
        if not isinstance(atom, _Literal):
            return flows[atom]
        return NOTHING if _is_zero(atom) else self._constant

    def _follow(
        self, program: Any, equation: Any, given: list[Flow]
    ) -> tuple[list[Flow], list[Flow]]:
        if not self._constant.data and not any(flow.data for flow in given):
            return [NOTHING] * len(equation.outvars), given
        control = _CONTROL.get(equation.primitive.name)
        inner = _inner_program(equation) if control is None else None
        if control is None and inner is None:
            if any(map(is_ref, (*equation.invars, *equation.outvars))):
                return _access(equation, given)
            return self.leaf(program, equation, given), given
        self.around.append(equation)
        if control is None:
            followed = self.call(program, equation, inner, given)
        else:
            followed = getattr(self, control)(equation.params, given)
        self.around.pop()
        return followed

    def call(
        self, program: Any, equation: Any, inner: Any, given: list[Flow]
    ) -> tuple[list[Flow], list[Flow]]:
        """Follow an equation that calls a program of its own."""
        del program, equation
        return self.run(inner, given)

    # --- loops and branches ----------------------------------------------------------

    def scan(self, params: Any, given: list[Flow]) -> tuple[list[Flow], list[Flow]]:
        """Follow a loop that carries some values and maps over others."""
        consts, carried = scan_counts(params)
        carry = slice(consts, consts + carried)
        results, state = self._fixpoint(params["jaxpr"].jaxpr, given, carry)
        if params["length"] == 0:
            results[:carried] = given[carry]
        return results, state

    def while_loop(self, params: Any, given: list[Flow]) -> tuple[list[Flow], list[Flow]]:
        """Follow a loop that runs as long as a condition holds."""
        first = params["cond_nconsts"]
        carry = slice(params["body_nconsts"], None)
        _, state = self._fixpoint(params["body_jaxpr"].jaxpr, given[first:], carry)
        carried = state[carry]  # the initial values are in it: there may be no iteration
        asked = [*given[:first], *carried]
        predicate, _ = self.run(params["cond_jaxpr"].jaxpr, asked)
        return _controlled(carried, predicate[0]), [*given[:first], *state]

    def _fixpoint(
        self, body: Any, state: list[Flow], carry: slice
    ) -> tuple[list[Flow], list[Flow]]:
        """Run the body of a loop until what it carries depends on nothing more."""
        while True:
            results, after = self.run(body, state)
            after[carry] = results[: len(after[carry])]
            grown = list(map(union, state, after))
            if grown == state:
                return results, state
            state = grown

    def cond(self, params: Any, given: list[Flow]) -> tuple[list[Flow], list[Flow]]:
        """Follow all branches: any may be taken."""
        index, *operands = given
        runs = [self.run(branch.jaxpr, operands) for branch in params["branches"]]
        results = list(map(union, *(results for results, _ in runs)))
        after = list(map(union, *(after for _, after in runs)))
        return _controlled(results, index), [index, *after]


_CONTROL = {"scan": "scan", "while": "while_loop", "cond": "cond"}
"""The primitives that are loops and branches, and the methods that follow them."""


def _controlled(flows: list[Flow], decision: Flow) -> list[Flow]:
    """Results that a branch or the number of iterations decides on."""
    return [flow._replace(data=flow.data | decision.data) for flow in flows]


def _access(equation: Any, given: list[Flow]) -> tuple[list[Flow], list[Flow]]:
    """Making, reading or writing a mutable array: whatever comes in may come out."""
    every = union(*given)
    return [every] * len(equation.outvars), [every] * len(given)


def _inner_program(equation: Any) -> Any:
    """The program that an equation calls as it is, whatever the primitive; or `None`.

    Told by its arguments and results: they are those of the equation, or the shards or
    rows of them where the primitive binds a named axis.
    """
    values = equation.params.values()
    found = [getattr(x, "jaxpr", x) for x in values if isinstance(x, _PROGRAMS)]
    if len(found) != 1:
        return None
    inner = found[0]
    pairs = ((inner.invars, equation.invars), (inner.outvars, equation.outvars))
    if any(len(mine) != len(theirs) for mine, theirs in pairs):
        return None
    mapped = bool(_named_axes(equation.params))
    alike = all(
        list(map(_type, mine)) == list(map(_type, theirs)) for mine, theirs in pairs
    )
    return inner if mapped or alike else None


_PROGRAMS = (_Jaxpr, _ClosedJaxpr)


def _type(atom: Any) -> tuple[Any, Any]:
    return getattr(atom.aval, "shape", None), getattr(atom.aval, "dtype", None)


def _named_axes(params: Any) -> dict[Any, int]:
    """The axes that an equation binds for the program in it: of a mesh, or of `pmap`."""
    if "mesh" in params:
        return dict(params["mesh"].shape)
    if "axis_name" in params and "axis_size" in params:
        return {params["axis_name"]: params["axis_size"]}
    return {}


def _is_zero(literal: Any) -> bool:
    if literal.aval.dtype == jax.dtypes.float0:  # the tangent of an integer
        return True
    return bool(np.all(np.asarray(literal.val) == 0))
