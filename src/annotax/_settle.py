"""What is read again at the first construction of a class.

A string may name what is defined further down in the file. Its type is taken in late; a
role is not, because by then the class is a finished PyTree node.
"""

import collections.abc
import typing
import warnings
from typing import Any, cast

import equinox as eqx
import jax
import jaxtyping
import numpy as np

from ._errors import AnnotationError, AnnotationWarning, explain_error, level_of_user
from ._field import FieldSpec
from ._hint import Hint
from ._registry import Declaration, registry
from ._role import Role
from ._specs import field_specs, lost_role_message, read_late


def settle(module: Any) -> None:
    """Read again what could not be resolved when a module's class was made.

    **Raises:** `AnnotationError` if a name turns out to be a role only now: by now the
    class is a finished PyTree node, and the role would be half true. Warns of an
    annotation that still cannot be read, if the class has roles and the field holds what
    a role would be about: plain names are often imported for type checkers alone.
    """
    cls: type = type(cast(object, module))
    unread: list[tuple[type, FieldSpec]] = []
    for base in cls.__mro__:
        declaration = registry.declarations.get(base)
        if declaration is not None and declaration.pending:
            unread += [(base, spec) for spec in _settle_class(base, declaration)]
    registry.unsettled.discard(cls)
    has_roles = any(spec.role is not None for spec in field_specs(cls))
    for base, spec in unread:
        if has_roles and _holds_data(getattr(module, spec.name, None)):
            warnings.warn(
                _unread_message(base, spec), AnnotationWarning, stacklevel=level_of_user()
            )


def _settle_class(cls: type, declaration: Declaration) -> list[FieldSpec]:
    """Take late types into the specs of one class; returns those still without one."""
    specs = dict(declaration.specs)
    unread: list[FieldSpec] = []
    for late in declaration.pending:
        hint = read_late(cls, late)
        spec = specs.get(late.name)
        role = declaration.abstract.get(late.name) if spec is None else spec.role
        if role is None:
            _refuse_late_role(f"{cls.__name__}.{late.name}", hint)
        if spec is None:
            continue
        if hint.missing:
            unread += (
                [spec] if role is None and not all(map(is_known_type, hint.missing)) else []
            )
        else:
            axes = hint.axes if spec.axes is None else spec.axes
            specs[late.name] = spec._replace(hint=hint.type, axes=axes)
    if specs != declaration.specs:
        registry.declare(cls, declaration._replace(specs=specs, pending=()))
    return unread


_TYPES: tuple[dict[str, Any], ...] = tuple(
    map(vars, (typing, collections.abc, jax, jaxtyping, np, eqx, eqx.nn))
)


def is_known_type(name: str) -> bool:
    """Whether a missing name is that of a type which everybody imports for checkers."""
    return any(name.rpartition(".")[2] in names for names in _TYPES)


def _refuse_late_role(where: str, hint: Hint) -> None:
    if hint.roles:
        raise AnnotationError(_late_role_message(where, hint, hint.roles[0]))
    if hint.lost_roles:
        raise AnnotationError(lost_role_message(where, hint))


def _late_role_message(where: str, hint: Hint, role: Role) -> str:
    return explain_error(
        where,
        "its role could not be read when the class was made",
        expected="the name of the role to be defined before the class",
        found=f"{hint.text!r}, which is a {role.name} only since",
        fix="import or define it first (not under TYPE_CHECKING), or write the twin:\n"
        f"{where.rpartition('.')[2]}: ... = "
        f"annotax.field(role=annotax.{role.kind.name.capitalize()})",
    )


def _holds_data(value: object) -> bool:
    """Whether a value holds arrays or numbers of its own, not only other modules."""
    data = jax.Array | np.ndarray | np.generic | int | float | complex
    leaves = jax.tree_util.tree_leaves(value, is_leaf=lambda x: isinstance(x, eqx.Module))
    return any(isinstance(leaf, data) for leaf in leaves)


def _unread_message(cls: type, spec: FieldSpec) -> str:
    return explain_error(
        f"{cls.__name__}.{spec.name}",
        "its annotation cannot be read at run time, so it counts as a field without a role",
        expected="names that exist at run time",
        found=f"{spec.text!r}",
        fix="import its names outside of TYPE_CHECKING; if it has a role, write the twin:\n"
        f"{spec.name}: ... = annotax.field(role=...)",
    )
