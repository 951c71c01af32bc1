"""What is read again at the first construction of a class.

A string may name what is defined further down in the file. Its type is taken in late; a
role is not, because by then the class is a finished PyTree node.
"""

import dataclasses

from ._errors import AnnotationError, explain_error
from ._field import FieldSpec
from ._hint import Hint, read_hint
from ._registry import Pending, registry
from ._role import Role
from ._scope import Scope, class_scope

_ROLE_NAMES = {"Param", "Buffer", "Hyper"}


def settle(cls: type) -> None:
    """Read again what could not be resolved when `cls` and its bases were made.

    **Raises:** `AnnotationError` if a name turns out to be a role only now: by now the
    class is a finished PyTree node, and the role would be half true.
    """
    for base in cls.__mro__:
        declaration = registry.declarations.get(base)
        if declaration is None or not declaration.pending:
            continue
        scope = class_scope(base, declaration.specs)
        specs = dict(declaration.specs)
        for late in declaration.pending:
            if late.name in specs:
                specs[late.name] = _settled_spec(base, specs[late.name], late, scope)
        if specs != declaration.specs:
            registry.declare(
                base, dataclasses.replace(declaration, specs=specs, pending=())
            )
    registry.unsettled.discard(cls)


def _settled_spec(cls: type, spec: FieldSpec, late: Pending, scope: Scope) -> FieldSpec:
    layered = Scope(lambda: (late.known, *scope.layers))
    hint = read_hint(late.annotation, layered)
    role = hint.roles[0] if hint.roles else None
    lost = [name for name in hint.missing if name.rpartition(".")[2] in _ROLE_NAMES]
    if spec.role is None and (
        role is not None or any(f"{name}[" in hint.text for name in lost)
    ):
        raise AnnotationError(
            _late_role_message(f"{cls.__name__}.{spec.name}", hint, role, lost)
        )
    if isinstance(hint.type, str):
        return spec
    axes = hint.axes if spec.axes is None else spec.axes
    return dataclasses.replace(spec, hint=hint.type, axes=axes)


def _late_role_message(where: str, hint: Hint, role: Role | None, lost: list[str]) -> str:
    if role is not None:
        problem = "its role could not be read when the class was made"
        found = f"{hint.text!r}, which is a {role.name} only since"
        name = role.kind.name.capitalize()
    else:
        problem = (
            "its role cannot be read: a name in the annotation does not exist at run time"
        )
        found = f"{hint.text!r} without {', '.join(lost)}"
        name = lost[0].rpartition(".")[2]
    return explain_error(
        where,
        problem,
        expected="the name of the role to be defined before the class",
        found=found,
        fix=f"import or define it first (not under TYPE_CHECKING), or write the twin:\n"
        f"{where.rpartition('.')[2]}: ... = annotax.field(role=annotax.{name})",
    )
