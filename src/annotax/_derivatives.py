"""Which inputs of a traced program have a derivative, as JAX itself would tell.

There is no table of primitives here. JAX is asked for the derivative of one equation at a
time, by `_probe`, and what it answers is put together along the program.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ._compat import CUSTOM_RULES, equation_frames, is_dropped
from ._dependence import Dependence, Flow, is_inexact, union
from ._probe import Reach, probe


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


@dataclass
class Refusal:
    """A primitive that JAX cannot differentiate, and for which inputs of the program."""

    primitive: str
    reason: str
    """The first line of what JAX raises."""
    inputs: int = 0


class Derivatives(Dependence):
    """The pass that knows of derivatives.

    **Arguments:** `inputs` is the number of inputs that are told apart. The next bit marks
    what has come through a `while_loop`, those after it mark cuts.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.loop_bit = 1 << inputs
        """In `Flow.grad`, marks what has come through a `while_loop`."""
        self.looped = 0
        """The inputs whose gradients would come through one."""
        self._cuts: dict[int, Cut] = {}
        self._known: dict[Any, Reach | str] = {}
        self._refusals: dict[str, Refusal] = {}

    @property
    def cuts(self) -> list[Cut]:
        """Where gradients end, in the order of the program."""
        return list(self._cuts.values())

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The primitives that JAX could not differentiate."""
        return tuple(self._refusals.values())

    def leaf(self, program: Any, equation: Any, given: list[Flow]) -> list[Flow]:
        """Data as in any program; derivatives as JAX says."""
        return self._differentiate(
            program, equation, given, super().leaf(program, equation, given)
        )

    def call(
        self, program: Any, equation: Any, inner: Any, given: list[Flow]
    ) -> tuple[list[Flow], list[Flow]]:
        """A call with a rule of its own has the derivatives of that rule.

        What it calls is then followed for its data alone: JAX does not differentiate it.
        """
        if equation.primitive.name not in CUSTOM_RULES:
            return super().call(program, equation, inner, given)
        results, after = Dependence().run(inner, given)
        return self._differentiate(program, equation, given, results), after

    def while_loop(self, params: Any, given: list[Flow]) -> tuple[list[Flow], list[Flow]]:
        """As any loop; `jax.grad` refuses it, so what has come through is marked."""
        results, after = super().while_loop(params, given)
        self.looped |= union(*results).grad
        marks = [self.loop_bit if flow.grad else 0 for flow in results]
        marked = zip(results, marks, strict=True)
        return [flow._replace(grad=flow.grad | mark) for flow, mark in marked], after

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
            bit = self.loop_bit << (1 + len(self._cuts))
            cut = Cut(kind, self._location(equation), bit)
            self._cuts[id(equation)] = cut
        cut.inputs |= mask
        return cut.bit

    def _location(self, equation: Any) -> str | None:
        """The innermost line that is the user's, of the equation or of a call around it.

        If there is none, the line of the library that wrote the equation.
        """
        around = (equation, *reversed(self.around))
        frames = [frame for place in around for frame in equation_frames(place)]
        users = next(_users(frames), None)
        return users or (_place(frames[0]) if frames else None)

    def _carried(
        self, program: Any, equation: Any, masks: list[int], tell: bool = True
    ) -> list[int]:
        """Per output, the inputs of the program that reach it differentiably."""
        active = tuple(at for at, mask in enumerate(masks) if mask)
        if not active:
            return [0] * len(equation.outvars)
        reach = self._reach(program, equation, active)
        if isinstance(reach, str):
            if tell:
                self._refuse(equation.primitive.name, reach, masks)
            reach = [active] * len(equation.outvars)
        carried: list[int] = []
        for positions in reach:
            mask = 0
            for at in positions:
                mask |= masks[at]
            carried.append(mask)
        return carried

    def _refuse(self, name: str, reason: str, masks: list[int]) -> None:
        """Note that JAX cannot differentiate a primitive; the first reason is kept."""
        refusal = self._refusals.setdefault(name, Refusal(name, reason))
        for mask in masks:
            refusal.inputs |= mask

    def _reach(self, program: Any, equation: Any, active: tuple[int, ...]) -> Reach | str:
        """What JAX says of one equation; asked once for all that are alike."""
        axes = tuple(self.axes.items())
        key = (_signature(equation), active, axes)
        if key not in self._known:
            self._known[key] = probe(program, equation, active, axes)
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


# --- where an equation was written ---------------------------------------------------

_INSTALLED = ("/site-packages/", "/dist-packages/")


def _users(frames: list[tuple[str, int]]) -> Iterator[str]:
    """The frames outside installed packages, as `model.py:42`."""
    for file, line in frames:
        if _inside(file) is None:
            yield f"{os.path.basename(file)}:{line}"


def _place(frame: tuple[str, int]) -> str:
    """A frame in an installed package, as `equinox/nn/_mlp.py:42`."""
    return f"{_inside(frame[0])}:{frame[1]}"


def _inside(file: str) -> str | None:
    """The path of a file in the folder of installed packages, if it is there."""
    file = file.replace(os.sep, "/")
    for folder in _INSTALLED:
        _, installed, inside = file.rpartition(folder)
        if installed:
            return inside
    return None
