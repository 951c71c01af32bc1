"""A class's annotations → field specs.

`declare` runs while a class of ours is being made, before Equinox turns it into a
dataclass: the last moment at which a field can still become static. `complete` runs when
the class is finished.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Any, ClassVar, cast

import equinox as eqx

from ._buffer import BufferSlot, UnsetField
from ._compat import own_annotations
from ._errors import AnnotationError, explain_error
from ._field import FieldSpec, agreed_role, field_metadata, is_hyper, options_of
from ._hint import Hint, read_hint
from ._hint_text import hint_text
from ._hyper import HyperConverter
from ._registry import Declaration, Pending, registry
from ._role import Role, role_or_none, role_text
from ._scope import Scope, class_scope
from ._source import names_in
from ._specs import field_specs, make_spec, promised_role, read_late

_FORM_NAMES = {
    "abstract": "AbstractVar",
    "abstract class": "AbstractClassVar",
    "class": "ClassVar",
    "init": "InitVar",
}


# --- while a class is being made -----------------------------------------------------


def declare(cls: type) -> None:
    """Read the body of a new annotax class and make its Hyper fields static.

    **Raises:** `AnnotationError`, naming Class.field, if a role cannot be meant.
    """
    annotations = own_annotations(cls)
    scope = class_scope(cls, annotations)
    specs: dict[str, FieldSpec] = {}
    abstract: dict[str, Role] = {}
    pending: list[Pending] = []
    changed = dict(annotations)
    for name, annotation in annotations.items():
        hint, role = _read(cls, name, annotation, scope)
        if hint.missing:
            pending.append(_pending(name, annotation, scope))
        if hint.kind == "field":
            specs[name] = _declared_spec(cls, name, hint, role)
            if is_hyper(specs[name].role):
                late = partial(_late_hint, cls, name) if hint.missing else None
                _make_static(cls, specs[name], annotation, late)
        elif hint.kind in ("abstract", "abstract class"):
            if hint.roles:
                abstract[name] = hint.roles[0]
            if isinstance(annotation, str):
                # Equinox does not recognise these forms in a string.
                form: Any = (
                    eqx.AbstractVar if hint.kind == "abstract" else eqx.AbstractClassVar
                )
                changed[name] = form[Any] if isinstance(hint.type, str) else hint.type
    for name in _hyper_properties(cls, annotations):
        changed[name] = ClassVar[Any]
    if changed != annotations:
        cls.__annotations__ = changed
    registry.declare(cls, Declaration(specs, abstract, tuple(pending)))


def _read(cls: type, name: str, annotation: Any, scope: Scope) -> tuple[Hint, Role | None]:
    """Read one annotation and its role, and refuse a role where none can stand."""
    where = f"{cls.__name__}.{name}"
    try:
        hint = read_hint(annotation, scope)
    except AnnotationError as error:
        fix = error.fix or None
        raise AnnotationError(explain_error(where, str(error), fix=fix)) from error
    twin = options_of(cls.__dict__.get(name)).role
    role = agreed_role(where, hint.roles, twin, hint)
    form = hint.inner_form or (_FORM_NAMES.get(hint.kind) if role is not None else None)
    if (
        role is None
        or form is None
        or (hint.kind.startswith("abstract") and not hint.inner_form)
    ):
        return hint, role
    is_abstract = "Abstract" in form
    raise AnnotationError(
        explain_error(
            where,
            f"a role and {form} contradict each other as written",
            expected=f"{form}[{role_text(role)}[...]]" if is_abstract else "no role",
            found=repr(hint.text),
            fix="put the role inside"
            if is_abstract
            else f"a {form} is no field: drop the role",
        )
    )


def _pending(name: str, annotation: Any, scope: Scope) -> Pending:
    """Keep what is needed to read an annotation again, and no more."""
    names = names_in(annotation) if isinstance(annotation, str) else ()
    known = {key: scope[key] for key in names if key in scope}
    return Pending(name, annotation, known)


def _declared_spec(cls: type, name: str, hint: Hint, role: Role | None) -> FieldSpec:
    value: Any = cls.__dict__.get(name)
    assigned = role_or_none(value)
    if assigned is not None:
        alias = role_text(assigned)
        raise AnnotationError(
            explain_error(
                f"{cls.__name__}.{name}",
                "a role is no value",
                expected="the role in the annotation",
                found=f"{name}: {hint.text} = {hint_text(value).removesuffix('[~T]')}",
                fix=f"{name}: {alias}[{hint.text}], or {name}: ... = "
                f"annotax.field(role={alias})",
            )
        )
    if role is None:
        role = promised_role(cls.__mro__[1:], name)
    static = field_metadata(value).get("static", False)
    if static and role is not None and not is_hyper(role):
        raise AnnotationError(
            explain_error(
                f"{cls.__name__}.{name}",
                f"a {role.name} cannot be static",
                expected="arrays in the PyTree, or a static field without arrays",
                found=f"{hint.text!r} with field(static=True)",
                fix="drop static=True, or annotate it Hyper[...]",
            )
        )
    return make_spec(cls, name, hint, options_of(value), role, "declared", value)


def _late_hint(cls: type, name: str) -> Any:
    """The hint of a field with the names that exist at the first construction."""
    declaration = registry.declarations[cls]
    for late in declaration.pending:
        if late.name == name:
            return read_late(cls, late).type
    return declaration.specs[name].hint  # it was read in the meantime


def _make_static(
    cls: type, spec: FieldSpec, annotation: Any, late: Callable[[], Any] | None
) -> None:
    """Make a Hyper field static, as if `field(static=True)` had been written."""
    # As `dataclasses` finds a default.
    value: Any = getattr(cls, spec.name, dataclasses.MISSING)
    if isinstance(value, dataclasses.Field):
        new = copy.copy(cast("dataclasses.Field[Any]", value))
    else:
        new = cast("dataclasses.Field[Any]", dataclasses.field(default=value))
    where = f"{cls.__name__}.{spec.name}"
    guard = HyperConverter(where, spec.hint, annotation, spec.converter, late=late)
    new.metadata = MappingProxyType({**new.metadata, "static": True, "converter": guard})
    setattr(cls, spec.name, new)


def _hyper_properties(cls: type, annotations: Mapping[str, Any]) -> list[str]:
    """Properties that stand in for a base's Hyper: they must stop being fields.

    Equinox would write the converted value back, and a property takes none.
    """
    found: list[str] = []
    for name, value in cls.__dict__.items():
        if isinstance(value, property) and name not in annotations:
            declared = (registry.declarations.get(base) for base in cls.__mro__[1:])
            specs = (d.specs[name] for d in declared if d is not None and name in d.specs)
            if any(is_hyper(spec.role) for spec in islice(specs, 1)):
                found.append(name)
    return found


# --- when it is finished -------------------------------------------------------------


def complete(cls: type) -> None:
    """Put the slots into a finished class that its Buffers need, and no others.

    **Raises:** `AnnotationError` if `declare` never ran, because a base has an
    `__init_subclass__` that does not call `super()`.
    """
    if cls in registry.variants:
        return
    if cls not in registry.declarations:
        declare(cls)
        made_static = [
            s.name for s in registry.declarations[cls].specs.values() if is_hyper(s.role)
        ]
        if made_static or registry.declarations[cls].abstract:
            raise AnnotationError(_skipped_message(cls, made_static))
    buffers: list[str] = []
    for spec in field_specs(cls):
        found = _class_attribute(cls, spec.name)
        wants_slot = spec.stopped
        if wants_slot and not isinstance(found, property):
            buffers.append(spec.name)
            if not isinstance(found, BufferSlot):
                setattr(cls, spec.name, BufferSlot(spec.name, _default(found)))
        elif not wants_slot and isinstance(found, BufferSlot):
            setattr(cls, spec.name, UnsetField(spec.name, found.default))
    if buffers:
        registry.buffers[cls] = tuple(buffers)
    if (
        any(base in registry.unsettled for base in cls.__mro__[1:])
        or registry.declarations[cls].pending
    ):
        registry.unsettled.add(cls)


def _class_attribute(cls: type, name: str) -> Any:
    """What stands under a name in a class or its bases, descriptors as they are."""
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return dataclasses.MISSING


def _default(found: Any) -> Any:
    return found.default if isinstance(found, UnsetField) else found


def _skipped_message(cls: type, names: Sequence[str]) -> str:
    culprits = [
        base.__name__
        for base in cls.__mro__[1:]
        if "__init_subclass__" in base.__dict__
        and base.__module__.partition(".")[0] not in ("annotax", "builtins", "typing")
    ]
    return explain_error(
        cls.__name__,
        "its fields could not be made static: a base's __init_subclass__ does not call "
        "super()",
        expected="super().__init_subclass__(**kwargs) in every __init_subclass__",
        found=f"fields {', '.join(names)}; __init_subclass__ in {', '.join(culprits)}",
        fix="add the call, or put annotax.Module first: "
        f"class {cls.__name__}(annotax.Module, ...)",
    )
