"""A model as flat `Leaves`, and the way back."""

from collections.abc import Sequence
from typing import Any, TypeVar

from ._errors import StructureError, describe, did_you_mean, explain_error, rows
from ._layout import is_array
from ._leaves import LeafKeys, Leaves
from ._select import trainable_filter
from ._selection import Selection
from ._view import View, view

_Model = TypeVar("_Model")


def leaves(model: Any, selection: Any) -> Leaves:
    """The selected leaves of a model, flat and keyed by path.

    Examples:
        >>> import annotax as anx
        >>> anx.leaves({"a": 1.5, "b": {"c": 2.5}}, anx.by_path("b.*"))
        Leaves(
            'b.c': 2.5,
        )

    **Arguments:** `model` is any PyTree; `selection` says which leaves.

    **Returns:** the leaves themselves, not copies.
    """
    seen = view(model)
    mask = Selection.of(selection).mask(seen)
    return gather(seen, [at for at, chosen in enumerate(mask) if chosen])


def params(model: Any) -> Leaves:
    """What is trained: `leaves(model, trainable_filter)`.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> anx.params([jnp.ones(3), jnp.arange(2)])
        Leaves(
            '0': f32[3],
        )
    """
    return leaves(model, trainable_filter)


def gather(seen: View, positions: Sequence[int]) -> Leaves:
    """The leaves at some positions of a tree already taken apart."""
    keys = LeafKeys(tuple(seen.layout.key(at, seen.leaves[at]) for at in positions))
    return Leaves(keys, [seen.leaves[at] for at in positions])


def update(model: _Model, new: Leaves) -> _Model:
    """A copy of `model` in which the leaves in `new` replace those of the same path.

    Examples:
        >>> import annotax as anx, jax, jax.numpy as jnp
        >>> model = {"a": jnp.zeros(2), "b": jnp.arange(2)}
        >>> doubled = jax.tree.map(lambda p: p + 1, anx.params(model))
        >>> anx.update(model, doubled)["a"]
        Array([1., 1.], dtype=float32)

    **Raises:** `StructureError`, listing every path that does not exist in the model and
    every leaf with another shape or dtype. `model` itself never changes.
    """
    insist_on_leaves("update", new)
    seen = view(model)
    positions = seen.layout.paths
    problems = [_misfit(path, value, seen) for path, value in new.items()]
    found = [problem for problem in problems if problem is not None]
    if found:
        raise StructureError(
            explain_error(
                f"update({type(model).__name__})",
                "the leaves do not fit the model",
                expected="paths of the model, with its shapes and dtypes",
                found=rows(found),
            )
        )
    changed = list(seen.leaves)
    for path, value in new.items():
        changed[positions[path]] = value
    return seen.treedef.unflatten(changed)


def _misfit(path: str, value: Any, seen: View) -> str | None:
    at = seen.layout.paths.get(path)
    if at is None:
        return f"{path}: no such leaf; {did_you_mean(path, tuple(seen.layout.paths))}"
    old = seen.leaves[at]
    if is_array(old) and is_array(value):
        fits = old.shape == value.shape and old.dtype == value.dtype
    else:
        fits = type(old) is type(value)
    texts = [describe(leaf).removeprefix("an array ") for leaf in (value, old)]
    return None if fits else f"{path}: {texts[0]}, where the model has {texts[1]}"


def insist_on_leaves(function: str, *values: Any) -> None:
    """Refuse what is no `Leaves`, for instance a dictionary with the same keys."""
    for value in values:
        if not isinstance(value, Leaves):
            raise StructureError(
                explain_error(
                    function,
                    "this is no Leaves",
                    expected="what params, leaves, split or grad returned",
                    found=describe(value),
                    fix="annotax.leaves(model, selection) makes them",
                )
            )
