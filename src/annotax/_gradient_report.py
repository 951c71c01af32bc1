"""`gradient_report`: which Params no gradient reaches, and which Buffers one does.

`_gradient_paths` traces and follows the function; here is what that means for the roles.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx

from ._compat import EquinoxMeta
from ._errors import GradientError, SelectionError, describe, explain_error
from ._field import is_buffer
from ._gradient_paths import Call, Paths, gradient_paths
from ._gradient_verdict import LOOSE, REGISTERED, GradientReport
from ._layout import is_inexact_array
from ._records import Record, view_records
from ._role import PARAM
from ._select import trainable_filter
from ._selection import Selection
from ._text import counted
from ._view import View, view


def gradient_report(
    fn: Callable[..., Any],
    model: Any,
    /,
    *args: Any,
    wrt: Any = trainable_filter,
    has_aux: bool = False,
    **kwargs: Any,
) -> GradientReport:
    """Which Params no gradient can reach, and which Buffers one does.

    Examples:
        >>> import annotax as anx, equinox as eqx, jax, jax.numpy as jnp
        >>> from jaxtyping import Array, Float
        >>> class Model(anx.Module):
        ...     weight: anx.Param[Float[Array, " d"]]
        ...     scale: anx.Param[Float[Array, ""]]
        ...     mean: anx.Buffer[Float[Array, " d"]]
        >>> def loss_fn(model, x):
        ...     return jnp.sum(model.weight * (x - model.mean))
        >>> model = Model(jnp.ones(3), jnp.ones(()), jnp.zeros(3))
        >>> report = anx.gradient_report(loss_fn, model, jnp.ones(3))
        >>> print(report)
        loss_fn: 1 of 2 leaves dead, 0 of 1 leaking.
          dead: selected, and no gradient reaches it
            scale: unused
        >>> report.ok, report.dead, report.leaking
        (False, ('scale',), ())

    In a test: `anx.gradient_report(loss_fn, model, batch).check()`.

    The function is traced once, on shapes, and nothing is computed: models too big for
    memory, made of `jax.ShapeDtypeStruct`, will do, and so will such arguments. It must
    be traceable, as under `jax.jit`. What counts is structure: a leaf that is multiplied by
    zero has a path to the result.

    **Arguments:**

    - `fn`: a loss, or any function of a model. All inexact arrays that it returns count,
      or those in the first of a pair with `has_aux=True`.
    - `model`: any PyTree with arrays. `args` and `kwargs` are given to `fn` after it.
    - `wrt`: a selection; of what it selects, each inexact array must have a gradient.

    **Returns:** a `GradientReport`.

    **Raises:** `SelectionError` if `wrt` selects nothing that has a gradient, and
    `GradientError` if `model` is none, or if `fn` returns nothing that could be
    differentiated. What `fn` raises passes through.
    """
    name = _name(fn)
    seen = _readable(fn, name, model)
    selection = Selection.of(wrt)
    mask = selection.mask(seen)
    inexact = [is_inexact_array(leaf) for leaf in seen.leaves]
    if not any(chosen and differs for chosen, differs in zip(mask, inexact, strict=True)):
        raise SelectionError(_nothing_message(name, selection, seen, sum(inexact)))
    paths = gradient_paths(Call(fn, name, seen, args, kwargs, has_aux))
    rows = list(map(_Row, view_records(seen), inexact, mask, *paths[:2]))
    return _report(name, repr(selection), rows, paths)


class _Row(NamedTuple):
    """All that is known of one leaf."""

    record: Record
    inexact: bool
    chosen: bool
    gradient: bool
    obstacle: str

    @property
    def guarded(self) -> bool:
        """Whether it must have no gradient."""
        kept = is_buffer(self.record.role) or self.record.frozen
        return self.inexact and kept and not self.chosen

    @property
    def trained_in_vain(self) -> bool:
        """Whether it is meant to have a gradient, and its dtype has none."""
        role, undeclared = self.record.role, self.record.undeclared
        declared = role is not None and role.kind is PARAM and not undeclared
        return not self.inexact and (self.chosen or declared)

    @property
    def reason(self) -> str:
        """Why it has no gradient, or why it has one."""
        if self.guarded:
            return REGISTERED if isinstance(self.record.owner, EquinoxMeta) else LOOSE
        if self.record.frozen:
            return "frozen"
        stopped = is_buffer(self.record.role) and self.record.enforced
        return "a Buffer, whose field stops gradients" if stopped else self.obstacle


def _report(name: str, selection: str, rows: list[_Row], paths: Paths) -> GradientReport:
    selected = [row for row in rows if row.chosen and row.inexact]
    bits = sum(1 << at for at, row in enumerate(rows) if row.chosen and row.inexact)
    dead = [row for row in selected if not row.gradient]
    guarded = [row for row in rows if row.guarded]
    leaking = [row for row in guarded if row.gradient]
    arrays = [row for row in rows if row.record.dtype is not None]
    return GradientReport(
        function=name,
        selection=selection,
        selected=_paths(selected),
        dead=_paths(dead),
        guarded=_paths(guarded),
        leaking=_paths(leaking),
        reasons={row.record.path: row.reason for row in (*dead, *leaking)},
        integer=_paths([row for row in arrays if not row.inexact]),
        integer_params=_paths([row for row in arrays if row.trained_in_vain]),
        undeclared=_paths([r for r in arrays if r.inexact and r.record.undeclared]),
        assumed=tuple(refusal.primitive for refusal in paths.refusals),
        refusals={refusal.primitive: refusal.reason for refusal in paths.refusals},
        refused=tuple(x.primitive for x in paths.refusals if x.inputs & bits),
        through_while=bool(paths.looped & bits),
    )


def _paths(rows: list[_Row]) -> tuple[str, ...]:
    return tuple(row.record.path for row in rows)


# --- what cannot be reported on ------------------------------------------------------


def _name(fn: Any) -> str:
    """What the user calls a function: `loss_fn`, `Model.loss`; the class of an object."""
    fn = inspect.unwrap(fn)
    while isinstance(fn, functools.partial | eqx.Partial):
        fn = fn.func
    name: str = getattr(fn, "__name__", type(fn).__name__)
    owner = getattr(fn, "__self__", None)
    if owner is None or inspect.ismodule(owner):  # a function in C has its module
        return name
    cls = owner if isinstance(owner, type) else type(owner)
    return f"{cls.__name__}.{name}"


def _readable(fn: Any, name: str, model: Any) -> View:
    """A model taken apart.

    A bare array is refused, although it is a tree: it is what comes second if the
    function is forgotten and the model is given in its place.
    """
    seen = view(model)
    leaf = bool(seen.leaves) and seen.treedef.num_nodes == 1
    if callable(fn) and not leaf:
        return seen
    raise GradientError(
        explain_error(
            f"gradient_report({name})",
            "this is no model" if callable(fn) else "the function is missing",
            expected="gradient_report(fn, model, *args)",
            found=f"{describe(fn)}, then {describe(model)}",
        )
    )


def _nothing_message(name: str, selection: Selection, seen: View, inexact: int) -> str:
    return explain_error(
        f"gradient_report({name})",
        f"{selection!r} selects nothing that has a gradient",
        expected="at least one inexact array",
        found=f"{describe(seen.tree)} with {counted(len(seen.leaves), 'leaf')}, "
        f"{inexact} of them inexact arrays, none selected",
        fix="look at annotax.records(model); say wrt=... if something else is meant",
    )
