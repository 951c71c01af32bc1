"""Selections: functions from a model to a tree of booleans, with algebra.

A selection reads layouts and leaves' shapes and dtypes, never values. So the same one
applies to a model, its abstract twin, its gradients and its `Leaves`, inside `jit` or
outside.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ._compat import tree_flatten
from ._errors import SelectionError, explain_error, listing
from ._layout import Layout, View, is_inexact_array, leaf_role, view
from ._leaves import Leaves
from ._path import compile_pattern, matches
from ._records import view_records
from ._role import Role

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
        if callable(selection) and not isinstance(selection, type):
            return _from_function(selection)
        raise SelectionError(
            explain_error(
                "selection",
                "this selects nothing",
                expected="a selection such as trainable_filter, or a function from a model "
                "to a tree of booleans",
                found=f"a {type(selection).__name__}",
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
                    )
                )
            return chosen

        return Selection(f"{self._text}.expect({count})", mask)

    def __and__(self, other: "Selection") -> "Selection":
        return _combine(self, other, "&", lambda a, b: a and b)

    def __or__(self, other: "Selection") -> "Selection":
        return _combine(self, other, "|", lambda a, b: a or b)

    def __invert__(self) -> "Selection":
        return Selection(f"~{self._text}", lambda seen: [not x for x in self._mask(seen)])

    def __repr__(self) -> str:
        return self._text


def _bare_leaf_message(text: str, leaf: Any) -> str:
    return explain_error(
        text,
        "asked about a leaf on its own, which has no path and no role",
        expected="a model, Leaves, or another tree",
        found=f"a {type(leaf).__name__}",
        fix=f"call the selection on the model: eqx.partition(model, {text}(model))",
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
                    found=f"a {type(tree).__name__}",
                )
            )
        return flags

    return Selection(name, mask)


# --- the selections ------------------------------------------------------------------


def _trainable(seen: View) -> Mask:
    return [
        may and is_inexact_array(leaf)
        for may, leaf in zip(seen.layout.may_train, seen.leaves, strict=True)
    ]


trainable_filter = Selection("trainable_filter", _trainable)
"""The leaves that training changes: Params that are inexact arrays and not frozen."""

everything = Selection("everything", lambda seen: [True] * len(seen.leaves))
"""Every leaf."""


def by_role(role: Any) -> Selection:
    """The leaves of a role or of one derived from it.

    Examples:
        >>> import annotax as anx
        >>> anx.by_role(anx.Param) & ~anx.by_role(anx.Buffer)
        (by_role(param) & ~by_role(buffer))

    **Raises:** `AnnotationError` if `role` is neither a role nor an alias of one.
    """
    wanted = Role.of(role)

    def mask(seen: View) -> Mask:
        roles = map(leaf_role, seen.layout.entries, seen.leaves)
        return [found is not None and found.is_a(wanted) for found in roles]

    return Selection(f"by_role({wanted.name})", mask)


def by_path(pattern: str) -> Selection:
    """The leaves whose path fits a pattern.

    Examples:
        >>> import annotax as anx
        >>> anx.by_path("encoder.**.w*").paths({"encoder": [{"w1": 1.0}], "w1": 2.0})
        ('encoder.0.w1',)

    `*` is one step of a path or, within a step, any characters; `**` is any number of
    steps, none included. A dictionary key that is no identifier is its repr in brackets.

    **Raises:** `SelectionError` if the pattern is malformed.
    """
    compiled = compile_pattern(pattern)

    def mask(seen: View) -> Mask:
        return [matches(compiled, entry.path) for entry in seen.layout.entries]

    return Selection(f"by_path({pattern!r})", mask)


def by_tag(tag: str) -> Selection:
    """The leaves that carry a tag, from their own field or one around it.

    Examples:
        >>> import annotax as anx, optax
        >>> tx = optax.adamw(1e-3, mask=~anx.by_tag("no_decay"))
    """

    def mask(seen: View) -> Mask:
        return [tag in entry.tags for entry in seen.layout.entries]

    return Selection(f"by_tag({tag!r})", mask)


def by(predicate: Callable[[Any], Any]) -> Selection:
    """The leaves for whose `Record` a predicate holds.

    Examples:
        >>> import annotax as anx, jax.numpy as jnp
        >>> anx.by(lambda record: record.ndim >= 2).paths([jnp.ones(3), jnp.ones((3, 3))])
        ('1',)
    """

    def mask(seen: View) -> Mask:
        return [bool(predicate(record)) for record in view_records(seen)]

    return Selection(f"by({getattr(predicate, '__name__', '...')})", mask)


class _Marker:
    """Stands for a leaf while `at` finds out which ones are meant."""

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position = position


def at(where: Callable[[Any], Any]) -> Selection:
    """The leaves in the nodes that a function takes from a model.

    Examples:
        >>> import annotax as anx
        >>> encoder = anx.at(lambda model: (model.encoder, model.head.bias))

    **Arguments:** `where` returns leaves or nodes of the model, or containers of them,
    as in `equinox.tree_at`.

    **Raises:** `SelectionError`, when it is applied to `Leaves` (they have no
    attributes), or if `where` fails or returns something that is no leaf of the model.
    """

    def mask(seen: View) -> Mask:
        markers = [_Marker(position) for position in range(len(seen.leaves))]
        found = jax.tree_util.tree_leaves(_taken(where, seen, markers))
        strangers = [leaf for leaf in found if not isinstance(leaf, _Marker)]
        if strangers:
            raise SelectionError(
                explain_error(
                    "at",
                    "the function returns something that is no leaf of the model",
                    expected=f"leaves or nodes of the {type(seen.tree).__name__}",
                    found=listing(f"a {type(stranger).__name__}" for stranger in strangers),
                    fix="static fields (Hypers) and computed values cannot be selected",
                )
            )
        chosen = {marker.position for marker in found}
        return [position in chosen for position in range(len(seen.leaves))]

    return Selection("at(...)", mask)


def _taken(where: Callable[[Any], Any], seen: View, markers: list[_Marker]) -> Any:
    problem = fix = cause = None
    if isinstance(seen.tree, Leaves):
        problem, fix = "needs a model", "use by_path(...) on Leaves"
    else:
        try:
            return where(seen.treedef.unflatten(markers))
        except Exception as error:
            problem, cause = f"the function failed on it: {error}", error
            fix = "return nodes of the model; arrays cannot be computed with here"
    found = f"a {type(seen.tree).__name__}"
    raise SelectionError(explain_error("at", problem, found=found, fix=fix)) from cause


# --- labels --------------------------------------------------------------------------


class Labels:
    """A function from a tree to the same tree with a label at every leaf."""

    __slots__ = ("_default", "_selections")

    def __init__(self, selections: Mapping[str, Selection], default: str | None) -> None:
        self._selections = dict(selections)
        self._default = default

    def __call__(self, tree: Any) -> Any:
        seen = view(tree)
        masks = {label: sel.mask(seen) for label, sel in self._selections.items()}
        chosen: list[str | None] = []
        overlaps: list[str] = []
        for position, entry in enumerate(seen.layout.entries):
            given = [label for label, mask in masks.items() if mask[position]]
            if len(given) > 1:
                overlaps.append(f"{entry.path} ({', '.join(given)})")
            chosen.append(given[0] if given else self._default)
        self._refuse(seen.layout, overlaps, chosen)
        return seen.treedef.unflatten(chosen)

    def _refuse(
        self, layout: Layout, overlaps: list[str], chosen: list[str | None]
    ) -> None:
        bare = [e.path for e, c in zip(layout.entries, chosen, strict=True) if c is None]
        if not overlaps and not bare:
            return
        problems: list[str] = []
        if overlaps:
            problems.append(f"two labels for {listing(overlaps)}")
        if bare:
            problems.append(f"none for {listing(bare)}")
        raise SelectionError(
            explain_error(
                repr(self),
                "every leaf needs one label",
                expected="selections that do not overlap, and a default for the rest",
                found="\n".join(problems),
                fix='subtract one from the other (a & ~b), and give default="..."',
            )
        )

    def __repr__(self) -> str:
        rows = ", ".join(f"{name!r}: {sel!r}" for name, sel in self._selections.items())
        return f"labels({{{rows}}}, default={self._default!r})"


def labels(selections: Mapping[str, Any], default: str | None = None) -> Labels:
    """Label every leaf by the selection that matches it, for `optax.multi_transform`.

    Examples:
        >>> import annotax as anx, optax
        >>> tx = optax.multi_transform(
        ...     {"head": optax.adam(1e-3), "body": optax.sgd(1e-4)},
        ...     anx.labels({"head": anx.by_path("head.**")}, default="body"),
        ... )

    **Arguments:** `selections` maps labels to selections; `default` labels the rest.

    **Returns:** a function from a model or `Leaves` to the same tree of strings. Give
    optax `Leaves`: it calls a label tree that can be called, and a model often can.

    **Raises:** `SelectionError`, when it is applied, if two labels overlap or a leaf has
    none; the message lists the paths.
    """
    return Labels({name: Selection.of(s) for name, s in selections.items()}, default)
