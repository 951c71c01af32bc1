"""Selections: functions from a model to a tree of booleans, with algebra.

A selection reads layouts and leaves' shapes and dtypes, never values. So the same one
applies to a model, its abstract twin, its gradients and its `Leaves`, inside `jit` or
outside.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx

from ._compat import tree_flatten
from ._errors import SelectionError, describe, explain_error, listing
from ._leaves import Leaves
from ._role import role_or_none, role_text
from ._view import View, view

Mask = list[bool]


class Selection:
    """A choice of leaves: call it on a model to get a tree of booleans.

    Examples:
        >>> import annotax as anx, equinox as eqx, jax.numpy as jnp
        >>> from jaxtyping import Array, Float
        >>> class Affine(anx.Module):
        ...     weight: anx.Param[Float[Array, "m n"]]
        ...     bias: anx.Param[Float[Array, " m"]] = anx.field(tags=["no_decay"])
        >>> model = Affine(jnp.ones((2, 3)), jnp.zeros(2))
        >>> decayed = anx.trainable_filter & ~anx.by_tag("no_decay")
        >>> decayed(model)
        Affine(weight=True, bias=False)
        >>> decayed.paths(model), decayed.count(model)
        (('weight',), 1)
        >>> selected, rest = eqx.partition(model, decayed(model))

    Combine with `&`, `|` and `~`. Made by `by_role`, `by_path`, `by_tag`, `by`, `at`;
    `trainable_filter` and `everything` are selections themselves.
    """

    __slots__ = ("_mask", "_text")

    def __init__(self, text: str, mask: Callable[[View], Mask]) -> None:
        self._text = text
        self._mask = mask

    @staticmethod
    def of(selection: Any) -> "Selection":
        """`selection` itself, or a function from a model to such a tree as one.

        **Raises:** `SelectionError` if it is neither.
        """
        if isinstance(selection, Selection):
            return selection
        role = role_or_none(selection)
        # A model can often be called too, and a tree of booleans is one.
        is_tree = isinstance(selection, eqx.Module | type | Leaves)
        if callable(selection) and not is_tree and role is None:
            return _from_function(selection)
        found, fix = describe(selection), None
        if role is not None:
            alias = role_text(role)
            found, fix = f"the role {alias}", f"annotax.by_role({alias})"
        elif isinstance(selection, str):
            fix = f"annotax.by_path({selection!r})"
        raise SelectionError(
            explain_error(
                "selection",
                "this is no selection",
                expected="a selection such as trainable_filter, or a function from a model "
                "to a tree of booleans",
                found=found,
                fix=fix or "give the selection itself, not the tree that it makes",
            )
        )

    def mask(self, seen: View) -> Mask:
        """One boolean a leaf of a tree already taken apart."""
        return self._mask(seen)

    def __call__(self, model: Any) -> Any:
        """A tree of `model`'s own shape with a boolean at every leaf.

        **Raises:** `SelectionError` for a bare leaf. Equinox calls a function that it is
        given as a filter on each leaf, and a leaf alone knows nothing of its field.
        """
        seen = view(model)
        if seen.leaves and seen.treedef.num_nodes == 1:
            raise SelectionError(_bare_leaf_message(self._text, model))
        return seen.treedef.unflatten(self._mask(seen))

    def paths(self, model: Any) -> tuple[str, ...]:
        """The paths of the selected leaves, in order."""
        seen = view(model)
        return _chosen(seen, self._mask(seen))

    def count(self, model: Any) -> int:
        """How many leaves are selected."""
        return sum(self._mask(view(model)))

    def expect(self, count: int) -> "Selection":
        """The same selection, insisting on the number of leaves that it matches.

        **Raises:** `SelectionError`, when it is applied and matches another number; the
        message lists what did match.
        """

        def mask(seen: View) -> Mask:
            chosen = self._mask(seen)
            if sum(chosen) != count:
                raise SelectionError(
                    explain_error(
                        self._text,
                        "matched another number of leaves",
                        expected=str(count),
                        found=f"{sum(chosen)}: {listing(_chosen(seen, chosen))}",
                        fix="annotax.records(model) tells what there is to match",
                    )
                )
            return chosen

        return Selection(f"{self._text}.expect({count})", mask)

    def __and__(self, other: "Selection") -> "Selection":
        return _combine(self, other, "&", lambda a, b: a and b)

    def __or__(self, other: "Selection") -> "Selection":
        return _combine(self, other, "|", lambda a, b: a or b)

    def __bool__(self) -> bool:
        raise SelectionError(
            explain_error(
                self._text,
                "a selection is neither true nor false",
                expected="& for and, | for or, ~ for not",
                found="`and`, `or`, `not` or `if`",
            )
        )

    def __invert__(self) -> "Selection":
        return Selection(f"~{self._text}", lambda seen: [not x for x in self._mask(seen)])

    def __repr__(self) -> str:
        return self._text


def _bare_leaf_message(text: str, leaf: Any) -> str:
    return explain_error(
        text,
        "asked about a leaf on its own, which has no path and no role",
        expected="a model, Leaves, or another tree",
        found=describe(leaf),
        fix=f"call the selection on the model: eqx.partition(model, {text}(model));\n"
        "for optax.inject_hyperparams name it: static_args=('mask',)",
    )


def _combine(
    left: Selection, right: Any, sign: str, operator: Callable[[bool, bool], bool]
) -> Selection:
    other = Selection.of(right)

    def mask(seen: View) -> Mask:
        return list(map(operator, left.mask(seen), other.mask(seen)))

    return Selection(f"({left!r} {sign} {other!r})", mask)


def _chosen(seen: View, mask: Mask) -> tuple[str, ...]:
    entries = seen.layout.entries
    return tuple(entry.path for entry, chosen in zip(entries, mask, strict=True) if chosen)


def _from_function(function: Callable[[Any], Any]) -> Selection:
    name = getattr(function, "__name__", type(function).__name__)

    def mask(seen: View) -> Mask:
        tree = function(seen.tree)
        flags, treedef = tree_flatten(tree)
        if treedef != seen.treedef or not all(isinstance(flag, bool) for flag in flags):
            raise SelectionError(
                explain_error(
                    name,
                    "the function is no selection",
                    expected="a tree of the model's own shape with a bool at every leaf",
                    found=describe(tree),
                    fix="annotax.at(...) selects by nodes, annotax.by(...) by leaves",
                )
            )
        return flags

    return Selection(name, mask)
