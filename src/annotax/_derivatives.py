"""Which inputs of a traced program have a derivative, as JAX itself would tell.

There is no table of primitives here. JAX is asked for the derivative of one equation at a
time, on shapes alone, and `_dependence` follows the program that it answers with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from ._compat import CUSTOM_RULES, equation_function, equation_location, is_dropped
from ._dependence import Dependence, Flow, is_inexact, union

_jax: Any = jax  # the types of its transformations are partly unknown

Reach = list[tuple[int, ...]]
"""For each output of an equation, the positions of the inputs it has a derivative by."""


@dataclass
class Cut:
    """An equation at which gradients end, and of which inputs of the program."""

    kind: str
    location: str | None
    bit: int
    """Marks in `Flow.through` what has come through here."""
    inputs: int = 0

    def __str__(self) -> str:
        return self.kind if self.location is None else f"{self.kind} at {self.location}"


class Derivatives(Dependence):
    """The pass that knows of derivatives.

    **Arguments:** `inputs` is the number of inputs that are told apart; bits from there
    on mark cuts.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self._inputs = inputs
        self._cuts: dict[int, Cut] = {}
        self._known: dict[Any, Reach | None] = {}
        self._assumed: dict[str, None] = {}

    @property
    def cuts(self) -> list[Cut]:
        """Where gradients end, in the order of the program."""
        return list(self._cuts.values())

    @property
    def assumed(self) -> tuple[str, ...]:
        """The primitives that JAX could not differentiate."""
        return tuple(self._assumed)

    def leaf(self, program: Any, equation: Any, given: list[Flow]) -> list[Flow]:
        """Data as in any program; derivatives as JAX says."""
        return self._differentiate(
            program, equation, given, super().leaf(program, equation, given)
        )

    def call(
        self, program: Any, equation: Any, inner: Any, given: list[Flow]
    ) -> tuple[list[Flow], list[Flow]]:
        """A call with a rule of its own has the derivatives of that rule."""
        results, after = super().call(program, equation, inner, given)
        if equation.primitive.name in CUSTOM_RULES:
            results = self._differentiate(program, equation, given, results)
        return results, after

    def _differentiate(
        self, program: Any, equation: Any, given: list[Flow], results: list[Flow]
    ) -> list[Flow]:
        moving = [
            flow if is_inexact(atom) else Flow(flow.data)
            for atom, flow in zip(equation.invars, given, strict=True)
        ]
        through = union(*moving).through
        name = equation.primitive.name
        if not through or not any(map(is_inexact, equation.outvars)):
            return [Flow(flow.data) for flow in results]
        if name == "stop_gradient":
            bit = self._cut(name, equation, through)
            return [Flow(results[0].data, through | bit)]
        grads = self._carried(program, equation, [flow.grad for flow in moving])
        throughs = self._carried(
            program, equation, [flow.through for flow in moving], False
        )
        lost = through & union(*results).data
        for mask in throughs:
            lost &= ~mask
        if lost and name in CUSTOM_RULES:
            lost |= self._cut(CUSTOM_RULES[name], equation, lost)
            throughs = [mask | lost for mask in throughs]
        masks = zip(throughs, grads, strict=True)
        return [Flow(flow.data, *m) for flow, m in zip(results, masks, strict=True)]

    def _cut(self, kind: str, equation: Any, mask: int) -> int:
        """Note that gradients end at an equation; a loop comes by more than once."""
        cut = self._cuts.get(id(equation))
        if cut is None:
            bit = 1 << (self._inputs + len(self._cuts))
            cut = Cut(kind, self._location(equation), bit)
            self._cuts[id(equation)] = cut
        cut.inputs |= mask
        return cut.bit

    def _location(self, equation: Any) -> str | None:
        """The user's line; that of a call around it if JAX itself wrote the equation."""
        places = map(equation_location, (equation, *reversed(self.around)))
        return next((place for place in places if place is not None), None)

    def _carried(
        self, program: Any, equation: Any, masks: list[int], tell: bool = True
    ) -> list[int]:
        """Per output, the inputs of the program that reach it differentiably."""
        active = tuple(at for at, mask in enumerate(masks) if mask)
        if not active:
            return [0] * len(equation.outvars)
        reach = self._reach(program, equation, active)
        if reach is None:
            reach = [active] * len(equation.outvars)
            if tell:
                self._assumed[equation.primitive.name] = None
        carried: list[int] = []
        for positions in reach:
            mask = 0
            for at in positions:
                mask |= masks[at]
            carried.append(mask)
        return carried

    def _reach(self, program: Any, equation: Any, active: tuple[int, ...]) -> Reach | None:
        """What JAX says of one equation; asked once for all that are alike."""
        axes = tuple(self.axes.items())
        key = (_signature(equation), active, axes)
        if key not in self._known:
            self._known[key] = _probe(program, equation, active, axes)
        return self._known[key]


def _signature(equation: Any) -> Any:
    """What the derivative of an equation depends on."""
    names: dict[Any, int] = {}
    atoms = tuple(
        (atom.aval, atom.val)
        if hasattr(atom, "val")
        else (atom.aval, None, names.setdefault(atom, len(names)))
        for atom in equation.invars
    )
    try:
        dropped = tuple(map(is_dropped, equation.outvars))
        signature = equation.primitive, frozenset(equation.params.items()), atoms, dropped
        hash(signature)
    except TypeError:  # a parameter without a hash
        return id(equation)
    return signature


# --- asking JAX ----------------------------------------------------------------------


def _probe(
    program: Any, equation: Any, active: tuple[int, ...], axes: tuple[tuple[Any, int], ...]
) -> Reach | None:
    """Which outputs of an equation have a derivative by which active inputs.

    **Returns:** `None` if JAX cannot say: the primitive has no rule.
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
    except Exception:  # what a rule, JAX's or the user's, raises can be anything
        return None
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
