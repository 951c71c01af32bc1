"""`freeze` and `unfreeze`: which fields of which instances are trained.

A field is frozen as a whole, at the innermost module around the array, because a gradient
is stopped where a value enters a module. Inside layers that compute the weights of another
(`WeightNorm`), it is frozen where the inner layer enters them.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from ._edit import Edit, apply
from ._errors import SelectionError, describe, explain_error, listing
from ._field import is_buffer, is_hyper
from ._layout import Home, is_inexact_array, leaf_role
from ._path import join
from ._registry import registry
from ._select import everything
from ._selection import Mask, Selection
from ._specs import field_specs
from ._variant import changes_of, variant
from ._view import View, view

_Model = TypeVar("_Model")


def freeze(model: _Model, selection: Any) -> _Model:
    """A copy of a model in which the selected leaves are not trained.

    Examples:
        >>> import annotax as anx, jax, jax.numpy as jnp
        >>> from jaxtyping import Array, Float
        >>> class Linear(anx.Module):
        ...     weight: anx.Param[Float[Array, "m n"]]
        ...     bias: anx.Param[Float[Array, " m"]]
        >>> model = Linear(jnp.ones((2, 3)), jnp.zeros(2))
        >>> model = anx.freeze(model, anx.by_path("weight"))
        >>> list(anx.params(model))
        ['bias']
        >>> grads = jax.grad(lambda m: jnp.sum(m.weight) + jnp.sum(m.bias))(model)
        >>> grads.weight.sum(), grads.bias.sum()
        (Array(0., dtype=float32), Array(2., dtype=float32))

    A frozen field keeps its role and is read as before, no gradient reaches what is in it
    whatever the loss, and `trainable_filter` leaves it out. It belongs to the instance:
    other instances of the class are trained, and a frozen layer stays so in other models.
    Gradients flow through it to its input. Only the tree structure changes, so a compiled
    function compiles once more for each set of frozen fields. `grad(wrt=...)` of a frozen
    leaf is zero, too. Wrap first and freeze then: what a layer such as `WeightNorm`
    computes cannot pass through one that was frozen before.

    **Arguments:** `model` is any PyTree of Equinox modules; `selection` covers all
    trainable arrays of a field or none of them, those of layers in a list with arrays
    included. What is never trained, as a Buffer, stays as it is.

    **Returns:** the model; what is not on the way to a frozen field is shared, all arrays
    are. The same selection gives the same structure.

    **Raises:** `SelectionError` if nothing is selected, nothing that could be trained, an
    array outside of any module, or only some of the arrays of a field.
    """
    return _change(model, selection, "freeze", _freezable)


def unfreeze(model: _Model, selection: Any = everything) -> _Model:
    """A copy of a model in which the selected leaves are trained again.

    Examples:
        >>> import annotax as anx, equinox as eqx, jax
        >>> mlp = eqx.nn.MLP(2, 2, 8, 2, key=jax.random.key(0))
        >>> frozen = anx.freeze(mlp, anx.everything)
        >>> thawed = anx.unfreeze(frozen, anx.by_path("layers.2.*"))
        >>> list(anx.params(thawed))
        ['layers.2.weight', 'layers.2.bias']
        >>> type(anx.unfreeze(frozen).layers[0]) is eqx.nn.Linear
        True

    Undoes `freeze` exactly, class and structure included. What was never frozen stays as
    it is; a Buffer never becomes trainable.

    **Raises:** `SelectionError` if nothing is selected, or only some of the arrays of a
    frozen field.
    """
    return _change(model, selection, "unfreeze", _frozen)


_Units = dict[Home, list[int]]
"""Fields, and in each the positions of the leaves that it is about."""


def _change(
    model: Any, selection: Any, action: str, find: Callable[[View, Mask], _Units]
) -> Any:
    chosen = Selection.of(selection)
    seen = view(model)
    mask = chosen.mask(seen)
    if not any(mask) and (seen.leaves or action == "freeze"):
        raise SelectionError(_nothing_message(action, chosen, seen))
    if action == "freeze":
        _refuse_unfreezable(chosen, seen, mask)
    units = find(seen, mask)
    partial = {home: at for home, at in units.items() if not all(mask[p] for p in at)}
    if partial:
        raise SelectionError(_partial_message(action, chosen, seen, mask, partial))
    names: dict[int, set[str]] = {}
    for module, name in units:
        names.setdefault(module, set()).add(name)
    edit = Edit()
    for module, fields in names.items():
        entry = seen.layout.modules[module]
        changes = changes_of(entry.cls)
        frozen = changes.frozen | fields if action == "freeze" else changes.frozen - fields
        edit.at(entry.path).cls = variant(entry.cls, changes._replace(frozen=frozen))
    return apply(edit, model)


def _freezable(seen: View, mask: Mask) -> _Units:
    """The fields of the selected leaves, and in each all leaves that would be trained."""
    trains = [
        may and is_inexact_array(leaf)
        for may, leaf in zip(seen.layout.may_train, seen.leaves, strict=True)
    ]
    units: _Units = {}
    for at, entry in enumerate(seen.layout.entries):
        if mask[at] and trains[at] and entry.unit is not None and entry.unit not in units:
            module, name = entry.unit
            span = range(*seen.layout.modules[module].spans[name])
            units[entry.unit] = [p for p in span if trains[p]]
    return units


def _frozen(seen: View, mask: Mask) -> _Units:
    """The frozen fields on the way to the selected leaves, and what only they freeze.

    What a field further in freezes, too, may stay frozen. A frozen field without any array,
    in a half of a partitioned model, goes with the whole model.
    """
    units: _Units = {}
    innermost: dict[int, Home] = {}
    for module_at, module in enumerate(seen.layout.modules):  # outer ones first
        for name in changes_of(module.cls).frozen:
            span = range(*module.spans.get(name, (0, 0)))
            inside = [
                p
                for p in span
                if not is_buffer(seen.layout.entries[p].role)
                and is_inexact_array(seen.leaves[p])
            ]
            if any(mask[p] for p in inside) or (not inside and all(mask)):
                units[module_at, name] = []
            innermost.update(dict.fromkeys(inside, (module_at, name)))
    for at, home in innermost.items():
        if home in units:
            units[home].append(at)
    return units


# --- messages ------------------------------------------------------------------------


def _nothing_message(action: str, chosen: Selection, seen: View) -> str:
    statics = [static.path for static in seen.layout.statics]
    return explain_error(
        f"{action}({type(seen.tree).__name__}, {chosen!r})",
        "the selection matches nothing",
        expected=f"some of {listing(entry.path for entry in seen.layout.entries)}",
        found="no leaf"
        + (f"; static, so no leaves: {listing(statics, 6)}" if statics else ""),
        fix="selection.paths(model) tells what a selection matches",
    )


def _refuse_unfreezable(chosen: Selection, seen: View, mask: Mask) -> None:
    where = f"freeze({type(seen.tree).__name__}, {chosen!r})"
    selected = [at for at, flag in enumerate(mask) if flag]
    inexact = [at for at in selected if is_inexact_array(seen.leaves[at])]
    entries = seen.layout.entries
    if not inexact:
        raise SelectionError(
            explain_error(
                where,
                "nothing in it could be trained",
                expected="Params, or other arrays of floating point numbers",
                found=listing(_what(seen, at) for at in selected),
                fix="it stays as it is without freezing",
            )
        )
    outside = [
        entries[at].path or "the array itself" for at in inexact if not entries[at].unit
    ]
    if outside:
        raise SelectionError(
            explain_error(
                where,
                "an array in no module cannot be frozen",
                expected="arrays in fields of Equinox modules",
                found=listing(outside),
                fix="put it into a field, or keep it out of the selection",
            )
        )


def _what(seen: View, at: int) -> str:
    """A leaf with what it is: `dropout.p (hyper)`, `table (an array int32[3])`."""
    entry, leaf = seen.layout.entries[at], seen.leaves[at]
    role = leaf_role(entry, leaf)
    what = role.name if role is not None and is_hyper(role) else describe(leaf)
    return f"{entry.path} ({what})"


def _partial_message(
    action: str, chosen: Selection, seen: View, mask: Mask, partial: dict[Home, list[int]]
) -> str:
    lines: list[str] = []
    for (module, field), positions in partial.items():
        entry = seen.layout.modules[module]
        spec = next(s for s in field_specs(entry.cls) if s.name == field)
        paths = [seen.layout.entries[at].path for at in positions if not mask[at]]
        why = f", which {registry.original(entry.cls).__name__} computes with" * spec.whole
        lines.append(f"{join(entry.path, field)}{why}: without {listing(paths)}")
    return explain_error(
        f"{action}({type(seen.tree).__name__}, {chosen!r})",
        "only some of the arrays of a field are selected",
        expected="all arrays of a field, or none",
        found="\n".join(lines),
        fix="select the whole field; for a part of it use a filter:\n"
        "eqx.partition(model, (annotax.trainable_filter & ~selection)(model))",
    )
