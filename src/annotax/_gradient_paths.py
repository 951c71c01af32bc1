"""How each leaf of a model reaches the result of a function, if it does.

Traces the function and follows the trace; knows nothing of roles.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from ._compat import tree_flatten
from ._dependence import Flow, union
from ._derivatives import Cut, Derivatives, Refusal
from ._errors import GradientError, describe, explain_error, listing
from ._layout import is_array
from ._view import View

_jax: Any = jax  # the types of its transformations are partly unknown


class Paths(NamedTuple):
    """Per leaf of a model, whether a gradient reaches it, and what keeps it away if not.

    `refusals` are the primitives that JAX could not differentiate, and `looped` the leaves
    whose gradients come through a `while_loop`, one bit a leaf.
    """

    gradient: list[bool]
    obstacle: list[str]
    refusals: tuple[Refusal, ...]
    looped: int


class Call(NamedTuple):
    """A function with its arguments, a model taken apart the first of them."""

    fn: Callable[..., Any]
    name: str
    seen: View
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    has_aux: bool


def gradient_paths(call: Call) -> Paths:
    """Trace a call on shapes, and follow every leaf of its model through the program.

    **Raises:** `GradientError` if nothing that could be differentiated comes out.
    """
    closed, positions, counted = _trace(call)
    leaves = len(call.seen.leaves)
    flows = [Flow(*(1 << at,) * 3) if at < leaves else Flow() for at in positions]
    derivatives = Derivatives(leaves)
    outputs, _ = derivatives.run(closed.jaxpr, flows)
    result, aux = union(*outputs[:counted]), union(*outputs[counted:])
    bits = [1 << at for at in range(leaves)]
    return Paths(
        [bool(result.grad & bit) for bit in bits],
        [_obstacle(bit, result, aux, derivatives.cuts) for bit in bits],
        derivatives.refusals,
        derivatives.looped if result.grad & derivatives.loop_bit else 0,
    )


def _obstacle(bit: int, result: Flow, aux: Flow, cuts: list[Cut]) -> str:
    """What keeps the gradient from an input that has none."""
    if result.through & bit:
        here = [cut for cut in cuts if cut.inputs & bit and cut.bit & result.through]
        return f"cut by {listing(dict.fromkeys(map(str, here)), 3)}"
    if result.data & bit:
        return "no derivative: only through comparisons, integers or rounding"
    return "only in the auxiliary output" if aux.data & bit else "unused"


# --- tracing -------------------------------------------------------------------------


def _trace(call: Call) -> tuple[Any, list[int], int]:
    """The program of a call.

    **Returns:** the closed jaxpr; for each of its inputs the position among the leaves of
    the model and those of the arguments after it; the number of outputs that count.
    """
    rest, structure = tree_flatten((call.args, call.kwargs))
    given, inner = [*call.seen.leaves, *rest], len(call.seen.leaves)
    positions = [at for at, leaf in enumerate(given) if _is_traceable(leaf)]

    def program(arrays: list[Any]) -> tuple[list[Any], list[Any]]:
        filled = list(given)
        for at, array in zip(positions, arrays, strict=True):
            filled[at] = array
        model = call.seen.treedef.unflatten(filled[:inner])
        args, kwargs = structure.unflatten(filled[inner:])
        result, aux = _parts(call, call.fn(model, *args, **kwargs))
        counted = [leaf for leaf in jax.tree_util.tree_leaves(result) if _is_inexact(leaf)]
        if not counted:
            raise GradientError(_no_output_message(call, result))
        return counted, list(filter(_is_value, jax.tree_util.tree_leaves(aux)))

    arrays = [given[at] for at in positions]
    closed, shapes = _jax.make_jaxpr(program, return_shape=True)(arrays)
    return closed, positions, len(shapes[0])


def _is_traceable(leaf: Any) -> bool:
    # numpy also has arrays of objects, strings and dates, which are constants to JAX.
    return is_array(leaf) and getattr(leaf.dtype, "kind", "") not in "OSUMm"


def _is_value(leaf: Any) -> bool:
    """Whether a trace can give this back: an array, or a number."""
    return isinstance(leaf, bool | int | float | complex) or _is_traceable(leaf)


def _is_inexact(leaf: Any) -> bool:
    return _is_value(leaf) and bool(jax.numpy.issubdtype(_dtype(leaf), np.inexact))


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if is_array(leaf) else np.result_type(leaf)


def _parts(call: Call, result: Any) -> tuple[Any, Any]:
    """The result that counts, and the auxiliary output."""
    if not call.has_aux:
        return result, None
    if isinstance(result, tuple | list):
        pair = cast(Sequence[Any], result)
        if len(pair) == 2:
            return pair[0], pair[1]
    raise GradientError(
        explain_error(
            f"gradient_report({call.name})",
            "has_aux=True, and the function returns no pair",
            expected="(result, aux)",
            found=describe(result),
        )
    )


def _no_output_message(call: Call, result: Any) -> str:
    leaves = jax.tree_util.tree_leaves(result)
    return explain_error(
        f"gradient_report({call.name})",
        "the function returns nothing that can be differentiated",
        expected="at least one inexact array"
        + (" in the first of the pair" if call.has_aux else ""),
        found=listing(map(describe, leaves)) if leaves else describe(result),
    )
