"""The selections that annotax offers."""

from collections.abc import Callable
from typing import Any

import jax

from ._errors import SelectionError, describe, explain_error, listing, with_article
from ._layout import is_inexact_array, leaf_role
from ._leaves import Leaves
from ._path import compile_pattern, matches
from ._records import view_records
from ._role import Role
from ._selection import Mask, Selection
from ._view import View


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
    given: Any = pattern
    _insist(isinstance(given, str), "by_path", "a pattern", given, "by_path('**.bias')")
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
    given: Any = tag
    _insist(isinstance(given, str), "by_tag", "a tag", given, "by_tag('a') | by_tag('b')")

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
    fix = "by(lambda record: record.ndim >= 2)"
    _insist(callable(predicate), "by", "a function of a record", predicate, fix)

    def mask(seen: View) -> Mask:
        return [bool(predicate(record)) for record in view_records(seen)]

    return Selection(f"by({getattr(predicate, '__name__', '...')})", mask)


def _insist(fits: bool, function: str, expected: str, found: Any, fix: str) -> None:
    if not fits:
        raise SelectionError(
            explain_error(
                f"{function}(...)",
                "this cannot select",
                expected=expected,
                found=describe(found),
                fix=fix,
            )
        )


class Leaf:
    """Stands for a leaf while `at` finds out which are meant; Python's messages name it."""

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
        markers = [Leaf(position) for position in range(len(seen.leaves))]
        found = jax.tree_util.tree_leaves(_taken(where, seen, markers))
        strangers = [leaf for leaf in found if not isinstance(leaf, Leaf)]
        if strangers:
            raise SelectionError(
                explain_error(
                    "at",
                    "the function returns something that is no leaf of the model",
                    expected=f"leaves or nodes of the {type(seen.tree).__name__}",
                    found=listing(map(describe, strangers)),
                    fix="static fields (Hypers) and computed values cannot be selected",
                )
            )
        chosen = {marker.position for marker in found}
        return [position in chosen for position in range(len(seen.leaves))]

    return Selection("at(...)", mask)


def _taken(where: Callable[[Any], Any], seen: View, markers: list[Leaf]) -> Any:
    problem = fix = cause = None
    if isinstance(seen.tree, Leaves):
        problem, fix = "needs a model", "use by_path(...) on Leaves"
    else:
        try:
            return where(seen.treedef.unflatten(markers))
        except Exception as error:
            problem, cause = f"the function failed on it: {error}", error
            fix = "return nodes of the model; arrays cannot be computed with here"
    found = with_article(type(seen.tree).__name__)
    raise SelectionError(explain_error("at", problem, found=found, fix=fix)) from cause
